"""RLlib's env runner for joint environments: its own loop, in which an environment's errors keep their words."""

from __future__ import annotations

from collections.abc import Callable
from sys import exception
from typing import Any

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.offline.offline_env_runner import OfflineSingleAgentEnvRunner
from ray.rllib.utils.annotations import override

from rllib_seqmarl.env_runners.env_errors import EnvErrorBoard, env_error_in
from rllib_seqmarl.envs.errors import JointEnvError, LayoutError


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

    @override(SingleAgentEnvRunner)
    def make_module(self) -> None:
        """As RLlib's, which knows of `torch_compile_worker` and does nothing about it."""
        super().make_module()
        if self.module is not None and self.config.torch_compile_worker:
            self.module.compile(self.config.get_torch_compile_worker_config())


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
