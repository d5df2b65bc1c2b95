"""What is wrong with an environment ends training with one message, on whatever worker it shows.

RLlib takes every error on a remote env runner for a crash: it starts the runner again and goes on, for ever if need
be. That is right for the faults of a simulator. But a broken promise of an environment (`JointEnvError`,
`LayoutError`) is a bug, and a restart brings it back. An env runner therefore posts it in Ray's key-value store, where
the algorithm looks for it after each training step and evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from sys import exception
from typing import Any

import ray
from ray.experimental import internal_kv
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.offline.offline_env_runner import OfflineSingleAgentEnvRunner
from ray.rllib.utils.annotations import override

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


class JointEnvRunner(SingleAgentEnvRunner):
    """RLlib's env runner, except that an environment's own errors are raised as they are and never restarted."""

    @override(SingleAgentEnvRunner)
    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:
        self._board = EnvErrorBoard(str(kwargs.get("log_dir")))
        try:
            super().__init__(config=config, **kwargs)
        except Exception as error:
            if self.worker_index:
                self._post_failed_start(error)
            raise

    def _post_failed_start(self, error: Exception) -> None:
        """A remote runner that cannot start is not started again, and RLlib may stumble over its absence."""
        found = env_error_in(error)
        if found is not None:
            self._board.post(found)
        elif not ray.get_runtime_context().was_current_actor_reconstructed:
            kind = type(error).__name__
            self._board.post(JointEnvError(f"an env runner of {self.config.env!r} cannot start: {kind}: {error}"))

    @override(SingleAgentEnvRunner)
    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As RLlib's, by which the algorithm calls a remote runner; the environment's errors leave it alive."""
        result, error = super().apply(_attempt, func, *args, **kwargs)
        if error is not None:
            self._board.post(error)
            raise error.with_traceback(None)  # RLlib logs what is raised here, twice
        return result

    @override(SingleAgentEnvRunner)
    def sample(self, **kwargs: Any) -> list[SingleAgentEpisode]:
        """As RLlib's, which would raise an empty RuntimeError from an environment's error."""
        try:
            return super().sample(**kwargs)
        except RuntimeError as error:
            found = env_error_in(error)
            if found is None:
                raise
            raise found from None

    @override(SingleAgentEnvRunner)
    def make_env(self) -> None:
        """As RLlib's, which with `restart_failed_sub_environments` makes anew an environment that raised an error."""
        error = env_error_in(exception())
        if error is not None:
            raise error
        super().make_env()


class RecordingJointEnvRunner(JointEnvRunner, OfflineSingleAgentEnvRunner):
    """The same for `config.offline_data(output=...)`, which records what it samples."""


def _attempt(
    runner: JointEnvRunner, func: Callable[..., Any], *args: Any, **kwargs: Any
) -> tuple[Any, JointEnvError | LayoutError | None]:
    """A call's result, and the environment's error; any other error is raised."""
    try:
        return func(runner, *args, **kwargs), None
    except Exception as error:
        found = env_error_in(error)
        if found is None:
            raise
        return None, found
