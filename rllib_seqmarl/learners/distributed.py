"""Coordination of several learners: sums over all of them, and errors that end the update of all."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from ray.rllib.core.learner.learner_group import LearnerGroup
from torch import Tensor

_FAILURE = "rllib_seqmarl/failure"  # the key under which a learner stores its error for the others
_DISCONNECTED = ("Connection closed", "Connection reset", "gloo", "NCCL")  # in errors caused by another learner's death
_SECONDS_TO_REPORT = 2.0  # how long a failed learner's process survives, for its error to arrive


class LearnersFailedError(RuntimeError):
    """The update of several learners ended because one of them failed or died."""


def check_that_all_can_learn(group: LearnerGroup) -> None:
    """Raise an error if RLlib has dropped a learner, because it would continue without that learner's share.

    Raises:
        LearnersFailedError: RLlib dropped a remote learner that raised an error or died.
    """
    if group.is_remote and group._worker_manager.num_healthy_actors() < len(group):
        raise LearnersFailedError("A learner failed in an earlier update. Restore the last checkpoint.")


def num_learners() -> int:
    """Return the number of learners in this update; 1 if learning is local."""
    return torch.distributed.get_world_size() if _is_distributed() else 1


def sum_over_learners(x: Tensor) -> None:
    """Replace `x` by its sum over all learners, in place; a no-op if learning is local."""
    if _is_distributed():
        torch.distributed.all_reduce(x)


def take_from_first_learner(x: Tensor) -> Tensor:
    """Return the first learner's `x`."""
    if _is_distributed():
        torch.distributed.broadcast(x, src=0)
    return x


@contextmanager
def fail_together(*recoverable: type[Exception]) -> Iterator[None]:
    """Make all learners leave the block if any of them raises an error.

    The learner that fails stores its error for the others, raises it, and ends its process shortly afterwards. The
    others, which wait for it in a sum, then get a connection error, and raise the stored error in its place. Leaving
    the process group is not sufficient: RLlib's DistributedDataParallel keeps its connections open.

    Args:
        *recoverable: Errors that all learners raise at the same point, after which they can continue.

    Raises:
        LearnersFailedError: Another learner failed or died.
    """
    try:
        yield
    except recoverable:
        raise
    except Exception as error:
        if num_learners() == 1:
            raise
        threading.Timer(_SECONDS_TO_REPORT, os._exit, (1,)).start()
        cause = _exchange_failure(error)
        if cause is None:
            raise
        raise LearnersFailedError(cause) from error


def _exchange_failure(error: Exception) -> str | None:
    """Return the other learner's error that ended the update; if there is none, store `error` for the others."""
    store = torch.distributed.distributed_c10d._get_default_store()
    try:
        if store.check([_FAILURE]):
            return str(store.get(_FAILURE).decode())
        if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _DISCONNECTED):
            return "Another learner died. Restore the last checkpoint."
        rank = torch.distributed.get_rank()
        store.set(_FAILURE, f"Learner {rank} failed with {type(error).__name__}: {error}")
    except torch.distributed.DistError:
        return "Another learner died. Restore the last checkpoint."  # the one that hosted the store
    return None


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
