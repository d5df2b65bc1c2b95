"""RLlib's env runner for joint environments: RLlib's loop, with independent seeds and errors that end training."""

import logging
import math
from collections.abc import Callable
from sys import exception
from typing import Any

import ray
from gymnasium.vector import SyncVectorEnv
from ray._private.state import actors
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.offline.offline_env_runner import OfflineSingleAgentEnvRunner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.debug import update_global_seed_if_necessary

from rllib_seqmarl.env_runners.env_errors import EnvErrorBoard, UserCodeError, find_env_error, find_permanent_error
from rllib_seqmarl.env_runners.seeds import SeedKey, env_seeds, process_seed
from rllib_seqmarl.envs.batch_env import JointBatchEnv
from rllib_seqmarl.envs.errors import JointEnvError
from rllib_seqmarl.envs.joint_env import AGENT_INFOS
from rllib_seqmarl.envs.vector_env import check_copies

logger = logging.getLogger(__name__)


class JointEnvRunner(SingleAgentEnvRunner):
    """RLlib's env runner, with these differences.

    - Errors of environments, callbacks and connectors are raised, and never cause a restart.
    - Every environment has an independent seed (`rllib_seqmarl.env_runners.seeds`), which is passed to its first reset
      only: later samples continue the same random stream instead of replaying it.
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
        """Post the error of a remote runner that cannot start; RLlib does not restart it, and may fail without it."""
        env_error = find_env_error(error)
        if env_error is not None:
            self._board.post(env_error)
        elif not self._restarts:
            kind = type(error).__name__
            self._board.post(JointEnvError(f"an env runner of {self.config.env!r} cannot start: {kind}: {error}"))

    @override(SingleAgentEnvRunner)
    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function on this remote runner as RLlib does; errors that end training do not kill the runner."""
        result, error = super().apply(_attempt, func, *args, **kwargs)
        if error is not None:
            self._board.post(error)
            raise error.with_traceback(None)  # RLlib logs errors raised here twice
        return result

    @override(SingleAgentEnvRunner)
    def sample(
        self, *, num_timesteps: float | None = None, num_episodes: float | None = None, **kwargs: Any
    ) -> list[SingleAgentEpisode]:
        """Sample as RLlib does, but raise environment errors, which RLlib would replace by an empty RuntimeError.

        Fractional steps and episodes, which RLlib computes for `evaluation_duration="auto"`, are rounded up.
        """
        try:
            return super().sample(
                num_timesteps=None if num_timesteps is None else math.ceil(num_timesteps),
                num_episodes=None if num_episodes is None else math.ceil(num_episodes),
                **kwargs,
            )
        except RuntimeError as error:
            env_error = find_env_error(error)
            if env_error is None:
                raise
            raise env_error from None

    @override(SingleAgentEnvRunner)
    def make_env(self) -> None:
        """Make environments as RLlib does, but re-raise an environment error that RLlib would recover from."""
        error = find_env_error(exception())
        if error is not None:
            raise error
        super().make_env()
        vector = self.env.unwrapped
        if isinstance(vector, SyncVectorEnv):
            check_copies([env.unwrapped for env in vector.envs])
        self._envs_made += 1
        self._is_seeded = False

    @override(SingleAgentEnvRunner)
    def make_module(self) -> None:
        """Make the module as RLlib does, and compile it with `torch_compile_worker`, which RLlib ignores."""
        super().make_module()
        if self.module is not None and self.config.torch_compile_worker:
            self.module.compile(self.config.get_torch_compile_worker_config())

    @override(EnvRunner)
    def _try_env_reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Reset as RLlib does, but pass independent seeds to first resets only; RLlib's `seed` is ignored."""
        seeds = None if self._is_seeded else env_seeds(self.config.seed, self._seed_key(), self.num_envs)
        self._is_seeded = True
        return super()._try_env_reset(seed=seeds, options=options)

    def foreach_env(self, function: Callable[[Any], Any]) -> list[Any]:
        """Call a function with each of the user's environments; used by `EnvRunnerGroup.foreach_env`.

        Args:
            function: A function of an environment, or of a `BatchedSimulator` that contains all environments.

        Raises:
            TypeError: The environments run in subprocesses started by gymnasium.
        """
        return [function(env) for env in self._user_envs()]

    def foreach_env_with_context(self, function: Callable[[Any, EnvContext], Any]) -> list[Any]:
        """Call a function with each environment and its `EnvContext`; otherwise the same as `foreach_env`."""
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
                f"(gym_env_vectorize_mode={self.config.gym_env_vectorize_mode!r}). Use 'sync', or call their methods "
                f"with `env_runner.env.unwrapped.call(name, ...)`."
            )
        return [env.unwrapped.env for env in vector.envs]


class _RecordableJointEnvRunner(JointEnvRunner):
    """`JointEnvRunner` without agents' infos, which may contain objects that MessagePack cannot serialise."""

    @override(JointEnvRunner)
    def sample(self, **kwargs: Any) -> list[SingleAgentEpisode]:
        samples = super().sample(**kwargs)
        for episode in samples:
            for info in episode.get_infos():
                info.pop(AGENT_INFOS, None)
        return samples


class RecordingJointEnvRunner(OfflineSingleAgentEnvRunner, _RecordableJointEnvRunner):
    """`JointEnvRunner` for `config.offline_data(output=...)`; records episodes without "agent_infos"."""

    @override(OfflineSingleAgentEnvRunner)
    def __init__(self, **kwargs: Any) -> None:
        try:
            super().__init__(**kwargs)
        except Exception as error:
            if self.worker_index:
                self._post_failed_start(error)
            raise


def _num_restarts() -> int:
    """Return how often Ray has restarted this actor; 0 outside of actors."""
    actor_id = ray.get_runtime_context().get_actor_id() if ray.is_initialized() else None
    return int(actors(actor_id)["NumRestarts"]) if actor_id else 0


def _attempt(
    runner: JointEnvRunner, func: Callable[..., Any], *args: Any, **kwargs: Any
) -> tuple[Any, Exception | None]:
    """Return a call's result, and an error that must end training; raise any other error."""
    try:
        return func(runner, *args, **kwargs), None
    except Exception as error:
        permanent_error = find_permanent_error(error)
        if permanent_error is None:
            raise
        if isinstance(permanent_error, UserCodeError):
            logger.exception("%s", permanent_error)
        return None, permanent_error
