"""Sums over all learners, so that the update of many learners is the update of one on the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor


def num_learners() -> int:
    """How many learners take part in this update; 1 where learning is local."""
    return torch.distributed.get_world_size() if _is_distributed() else 1


def sum_over_learners(x: Tensor) -> None:
    """Replaces `x` by its sum over all learners, in place; does nothing where learning is local."""
    if _is_distributed():
        torch.distributed.all_reduce(x)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
