"""Several learners as one: sums over all of them, and errors that end the update of all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_FAILURE = "rllib_seqmarl/failure"  # where a learner leaves its error for the others


class LearnersFailedError(RuntimeError):
    """The update of several learners ended because one of them failed or is gone."""


def num_learners() -> int:
    """How many learners take part in this update; 1 where learning is local."""
    return torch.distributed.get_world_size() if _is_distributed() else 1


def sum_over_learners(x: Tensor) -> None:
    """Replaces `x` by its sum over all learners, in place; does nothing where learning is local."""
    if _is_distributed():
        torch.distributed.all_reduce(x)


@contextmanager
def failing_together(*agreed: type[Exception]) -> Iterator[None]:
    """A block of which all learners come out, whichever of them raises an error.

    The learner that fails leaves its process group. The others, which wait for it in a sum, get a connection error at
    once (with gloo; NCCL waits for the group's timeout), and raise the first one's error in its place.

    Args:
        *agreed: Errors that all learners raise at the same point, so that the group stays intact.

    Raises:
        LearnersFailedError: Another learner failed, or has died.
    """
    try:
        yield
    except agreed:
        raise
    except Exception as error:
        if num_learners() == 1:
            raise
        cause = _leave(error)
        if cause is None:
            raise
        raise LearnersFailedError(cause) from error


def _leave(error: Exception) -> str | None:
    """Leaves the process group; returns what ended the update if it was another learner, else reports `error`."""
    rank = torch.distributed.get_rank()
    store = torch.distributed.distributed_c10d._get_default_store()
    try:
        if store.check([_FAILURE]):
            return str(store.get(_FAILURE).decode())
        if _is_disconnection(error):
            return "Another learner has died. Restore the last checkpoint."
        store.set(_FAILURE, f"Learner {rank} failed with {type(error).__name__}: {error}")
        return None
    except torch.distributed.DistError:
        return "Another learner has died. Restore the last checkpoint."
    finally:
        torch.distributed.destroy_process_group()


def _is_disconnection(error: Exception) -> bool:
    """Whether it is what gloo raises in a process whose peer has left, rather than an error of this learner's own."""
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("Connection closed", "Connection reset", "gloo", "NCCL")
    )


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
