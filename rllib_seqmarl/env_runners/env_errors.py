"""What is wrong with an environment ends training with one message, on whatever worker it shows.

RLlib takes every error on a remote env runner for a crash: it starts the runner again and goes on, for ever if need
be. That is right for the faults of a simulator. But a broken promise of an environment (`JointEnvError`,
`LayoutError`) is a bug, and a restart brings it back. An env runner therefore posts it in Ray's key-value store, where
the algorithm looks for it after each training step and evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.experimental import internal_kv

from rllib_seqmarl.envs.errors import JointEnvError, LayoutError

_NAMESPACE = "rllib_seqmarl_env_errors"


def env_error_in(error: BaseException | None) -> JointEnvError | LayoutError | None:
    """The environment's own error among an error and its causes; None if there is none."""
    while error is not None and not isinstance(error, JointEnvError | LayoutError):
        error = error.__cause__
    return error


@dataclass(frozen=True)
class EnvErrorBoard:
    """Where one algorithm's env runners post what is wrong with their environments.

    Attributes:
        log_dir: The algorithm's `logdir`, which RLlib tells to each of its env runners; it makes the board's key.
    """

    log_dir: str

    def post(self, error: Exception) -> None:
        """Notes an error, unless there is one already."""
        internal_kv._internal_kv_put(self.log_dir, str(error), overwrite=False, namespace=_NAMESPACE)

    def clear(self) -> None:
        """Forgets what was posted."""
        if ray.is_initialized():
            internal_kv._internal_kv_del(self.log_dir, namespace=_NAMESPACE)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raises what was posted by the end of the block, in place of any error that came of it.

        Raises:
            JointEnvError: What the env runner said.
        """
        try:
            yield
        finally:
            message = None
            if ray.is_initialized():
                message = internal_kv._internal_kv_get(self.log_dir, namespace=_NAMESPACE)
            if message is not None:
                raise JointEnvError(message.decode()) from None
