"""Several learners as one: sums over all of them, and errors that end the update of all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from ray.rllib.core.learner.learner_group import LearnerGroup
from torch import Tensor

_FAILURE = "rllib_seqmarl/failure"  # the key under which a learner stores its error for the others
_DISCONNECTED = ("Connection closed", "Connection reset", "gloo", "NCCL")  # in errors of a learner that lost another
_SECONDS_TO_REPORT = 2.0  # a failed learner's process lives on for its error to arrive


class LearnersFailedError(RuntimeError):
    """The update of several learners ended because one of them failed or is gone."""


def check_that_all_can_learn(group: LearnerGroup) -> None:
    """RLlib drops learners that have raised an error or died, and would train on without their shares, or on nothing.

    Raises:
        LearnersFailedError: A remote learner has been dropped.
    """
    if group.is_remote and group._worker_manager.num_healthy_actors() < len(group):
        raise LearnersFailedError("A learner failed in an earlier update. Restore the last checkpoint.")


def num_learners() -> int:
    """The number of learners in this update; 1 if learning is local."""
    return torch.distributed.get_world_size() if _is_distributed() else 1


def sum_over_learners(x: Tensor) -> None:
    """Replaces `x` by its sum over all learners, in place; does nothing where learning is local."""
    if _is_distributed():
        torch.distributed.all_reduce(x)


@contextmanager
def failing_together(*agreed: type[Exception]) -> Iterator[None]:
    """A block that all learners leave, whichever of them raises an error.

    The learner that fails stores its error for the others, raises it, and ends its process shortly afterwards. The
    others, which wait for it in a sum, then get a connection error, and raise the stored error in its place. Leaving
    the process group would not do: RLlib's DistributedDataParallel keeps its connections open.

    Args:
        *agreed: Errors that all learners raise at the same point, after which they can go on.

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
        threading.Timer(_SECONDS_TO_REPORT, os._exit, (1,)).start()
        cause = _failure_of_another(error)
        if cause is None:
            raise
        raise LearnersFailedError(cause) from error


def _failure_of_another(error: Exception) -> str | None:
    """The error of another learner that ended the update; if there is none, `error` is stored for the others."""
    store = torch.distributed.distributed_c10d._get_default_store()
    try:
        if store.check([_FAILURE]):
            return str(store.get(_FAILURE).decode())
        if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _DISCONNECTED):
            return "Another learner died. Restore the last checkpoint."
        rank = torch.distributed.get_rank()
        store.set(_FAILURE, f"Learner {rank} failed with {type(error).__name__}: {error}")
    except torch.distributed.DistError:
        return "Another learner died. Restore the last checkpoint."  # the one that held the store
    return None


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
