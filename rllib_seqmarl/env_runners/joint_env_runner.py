"""RLlib's env runner for joint environments: its own loop, with independent seeds and errors that end training."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from sys import exception
from typing import Any

import ray
from ray._private.state import actors
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.offline.offline_env_runner import OfflineSingleAgentEnvRunner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.debug import update_global_seed_if_necessary

from rllib_seqmarl.env_runners.env_errors import EnvErrorBoard, UserCodeError, env_error_in, lasting_error_in
from rllib_seqmarl.env_runners.seeds import SeedKey, env_seeds, process_seed
from rllib_seqmarl.envs.batch_env import JointBatchEnv
from rllib_seqmarl.envs.errors import JointEnvError
from rllib_seqmarl.envs.joint_env import AGENT_INFOS

logger = logging.getLogger(__name__)


class JointEnvRunner(SingleAgentEnvRunner):
    """RLlib's env runner, with these differences.

    - An environment's own errors are raised as they are and never restarted; so are errors of callbacks and connectors.
    - Every environment has an independent seed (`rllib_seqmarl.env_runners.seeds`), given to it once, at its first
      reset: later samples continue the same random stream instead of replaying it.
    - `foreach_env` calls a function with each of the user's environments.
    """

    @override(SingleAgentEnvRunner)
    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:
        self._board = EnvErrorBoard(str(kwargs.get("log_dir")))
        self._restarts = _num_restarts()
        self._envs_made = 0
        self._is_seeded = False
        try:
            super().__init__(config=config, **kwargs)
        except Exception as error:
            if self.worker_index:
                self._post_failed_start(error)
            raise
        if self.worker_index and self.config.seed is not None:  # a local runner shares its process with the learner
            seed = process_seed(self.config.seed, self._seed_key())
            update_global_seed_if_necessary(self.config.framework_str, seed)

    def _seed_key(self) -> SeedKey:
        return SeedKey(
            worker_index=self.worker_index or 0,
            in_evaluation=self.config.in_evaluation,
            restarts=self._restarts,
            env_steps=self.num_env_steps_sampled_lifetime,
            envs_made=self._envs_made,
        )

    def _post_failed_start(self, error: Exception) -> None:
        """A remote runner that cannot start is not started again, and RLlib may stumble over its absence."""
        found = env_error_in(error)
        if found is not None:
            self._board.post(found)
        elif not self._restarts:
            kind = type(error).__name__
            self._board.post(JointEnvError(f"an env runner of {self.config.env!r} cannot start: {kind}: {error}"))

    @override(SingleAgentEnvRunner)
    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As RLlib's, by which the algorithm calls a remote runner; errors that end training leave it alive."""
        result, error = super().apply(_attempt, func, *args, **kwargs)
        if error is not None:
            self._board.post(error)
            raise error.with_traceback(None)  # RLlib logs what is raised here, twice
        return result

    @override(SingleAgentEnvRunner)
    def sample(
        self, *, num_timesteps: float | None = None, num_episodes: float | None = None, **kwargs: Any
    ) -> list[SingleAgentEpisode]:
        """As RLlib's, except for an environment's errors, from which RLlib would raise an empty RuntimeError.

        Fractions of steps and episodes, which RLlib computes for `evaluation_duration="auto"`, are rounded up.
        """
        try:
            return super().sample(
                num_timesteps=None if num_timesteps is None else math.ceil(num_timesteps),
                num_episodes=None if num_episodes is None else math.ceil(num_episodes),
                **kwargs,
            )
        except RuntimeError as error:
            found = env_error_in(error)
            if found is None:
                raise
            raise found from None

    @override(SingleAgentEnvRunner)
    def make_env(self) -> None:
        """As RLlib's, which with `restart_failed_sub_environments` replaces an environment that raised an error."""
        error = env_error_in(exception())
        if error is not None:
            raise error
        super().make_env()
        self._envs_made += 1
        self._is_seeded = False

    @override(SingleAgentEnvRunner)
    def make_module(self) -> None:
        """As RLlib's, and compiled with `torch_compile_worker`, which RLlib accepts and ignores."""
        super().make_module()
        if self.module is not None and self.config.torch_compile_worker:
            self.module.compile(self.config.get_torch_compile_worker_config())

    @override(EnvRunner)
    def _try_env_reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """As RLlib's, with one seed for each environment at its first reset; RLlib's `seed` is not used."""
        seeds = None if self._is_seeded else env_seeds(self.config.seed, self._seed_key(), self.num_envs)
        self._is_seeded = True
        return super()._try_env_reset(seed=seeds, options=options)

    def foreach_env(self, function: Callable[[Any], Any]) -> list[Any]:
        """Calls a function with each environment that the user has written; `EnvRunnerGroup.foreach_env` calls this.

        Args:
            function: What to call with an environment, or with a `BatchedSimulator` that holds all of them.

        Returns:
            The function's results.

        Raises:
            TypeError: The environments are in processes that gymnasium has started.
        """
        return [function(env) for env in self._user_envs()]

    def foreach_env_with_context(self, function: Callable[[Any, EnvContext], Any]) -> list[Any]:
        """As `foreach_env`, with each environment's `EnvContext` as the function's second argument."""
        context = EnvContext(self.config.env_config, self.worker_index or 0, num_workers=self.num_workers)
        return [
            function(env, context.copy_with_overrides(vector_index=index))
            for index, env in enumerate(self._user_envs())
        ]

    def _user_envs(self) -> list[Any]:
        if self.env is None:  # the local env runner, while remote ones sample
            return []
        vector = self.env.unwrapped
        if isinstance(vector, JointBatchEnv):
            return [vector.batch]
        if not hasattr(vector, "envs"):
            raise TypeError(
                f"foreach_env cannot reach environments in other processes "
                f"(gym_env_vectorize_mode={self.config.gym_env_vectorize_mode!r}). Write 'sync', or call their methods "
                f"with `env_runner.env.unwrapped.call(name, ...)`."
            )
        return [env.unwrapped.env for env in vector.envs]


class _RecordableJointEnvRunner(JointEnvRunner):
    """Its episodes hold data only: the agents' infos may be any objects, which MessagePack could not write or read."""

    @override(JointEnvRunner)
    def sample(self, **kwargs: Any) -> list[SingleAgentEpisode]:
        samples = super().sample(**kwargs)
        for episode in samples:
            for info in episode.get_infos():
                info.pop(AGENT_INFOS, None)
        return samples


class RecordingJointEnvRunner(OfflineSingleAgentEnvRunner, _RecordableJointEnvRunner):
    """The same for `config.offline_data(output=...)`, which records episodes without "agent_infos"."""

    @override(OfflineSingleAgentEnvRunner)
    def __init__(self, **kwargs: Any) -> None:
        try:
            super().__init__(**kwargs)
        except Exception as error:
            if self.worker_index:
                self._post_failed_start(error)
            raise


def _num_restarts() -> int:
    """The number of times that Ray has restarted this actor; 0 outside of actors."""
    actor_id = ray.get_runtime_context().get_actor_id() if ray.is_initialized() else None
    return int(actors(actor_id)["NumRestarts"]) if actor_id else 0


def _attempt(
    runner: JointEnvRunner, func: Callable[..., Any], *args: Any, **kwargs: Any
) -> tuple[Any, Exception | None]:
    """A call's result, and the error that must end training; any other error is raised."""
    try:
        return func(runner, *args, **kwargs), None
    except Exception as error:
        found = lasting_error_in(error)
        if found is None:
            raise
        if isinstance(found, UserCodeError):
            logger.exception("%s", found)
        return None, found
