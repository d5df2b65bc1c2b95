"""The env runner that samples into preallocated arrays, without creating objects per step."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
import tree
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core.columns import Columns
from ray.rllib.env.env_runner import NUM_ENV_STEP_FAILURES_LIFETIME
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import ENV_STEP_TIMER, RLMODULE_INFERENCE_TIMER

from rllib_seqmarl.env_runners.episode_record import EpisodeRecord
from rllib_seqmarl.env_runners.joint_env_runner import JointEnvRunner
from rllib_seqmarl.env_runners.rollout_buffer import RolloutBuffer
from rllib_seqmarl.env_runners.team_metrics import TeamMetrics
from rllib_seqmarl.envs.layout import Arrays
from rllib_seqmarl.envs.vector_env import JointVector
from rllib_seqmarl.modules.team_connectors import ModuleToTeam, TeamToModule
from rllib_seqmarl.policies import reset_state
from rllib_seqmarl.rollouts import Rollout
from rllib_seqmarl.rollouts.episodes import make_episode, row_info

logger = logging.getLogger(__name__)

# Callbacks that receive a running episode, which only RLlib's loop creates.
_DURING_EPISODES = ("on_episode_created", "on_episode_start", "on_episode_step")
# Callbacks that receive whole episodes or segments of them, and may read or change them.
_WITH_EPISODES = ("on_episode_end", "on_sample_end")
_TOKENS_FOR_THREADS = 1 << 13  # agents in all environments
_INITIAL_CAPACITY = 128  # rows for whole episodes, whose number of steps is unknown; doubled as needed


class RolloutEnvRunner(JointEnvRunner):
    """Env runner that writes each step's observations, actions, log-probabilities and values in place.

    A sample is a `Rollout`. Like RLlib's samples it is also a sequence of episodes, which are created on demand for
    `on_episode_end` and `on_sample_end` callbacks and the user's learner connectors. Episode segments have no lookback
    and share the rollout's memory: changes to their rewards, observations or actions reach the learner.

    `episode.get_infos(i)` is the joint info (see `JointEnv`). Its "agent_infos" are the infos of the user's
    environment, by agent: `episode.get_infos(-1)["agent_infos"]["agent_0"]["collisions"]`. The infos of the last steps
    of episodes are always kept; those of other steps and of resets are kept only if the config has callbacks
    `on_episode_end` or `on_sample_end` or learner connectors.

    Steps, resets, seeds, random numbers and metrics are the same as in RLlib's own loop. That loop is used instead if
    something must happen at every step: user connectors between environment and module, callbacks
    `on_episode_created`, `on_episode_start` and `on_episode_step`, random actions, and environments that gymnasium
    vectorises (including those whose creators use RLlib's `EnvContext`).
    """

    module: Any  # no None once there are samples
    _needs_initial_reset: bool

    @override(SingleAgentEnvRunner)
    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:
        self._record = EpisodeRecord()
        super().__init__(config=config, **kwargs)

    @override(SingleAgentEnvRunner)
    def make_env(self) -> None:
        super().make_env()
        self._record.replace_envs(self.num_envs)
        self._obs: Arrays | None = None  # the latest observations; None before the first reset
        self._done = np.zeros(self.num_envs, np.bool_)  # whether the latest step ended an episode
        self._state: Any = None  # the policy's state before the next step, a tree of (B, ...); None before the first
        self._obs_infos: list[dict[str, Any]] = []  # infos of the latest observations, if infos are kept
        self._earlier: dict[int, list[SingleAgentEpisode]] = defaultdict(list)  # earlier segments of running episodes
        self.__dict__.pop("_writes_rollouts", None)  # computed when it is first read

    def obstacle(self) -> str | None:
        """Return why RLlib's own loop must be used, or None."""
        if self.module is None:
            return "there is no module"
        if not isinstance(self.env.unwrapped, JointVector):
            return "gymnasium vectorises the environment (gym_env_vectorize_mode), or its creator takes an EnvContext"
        for name, own in (("_env_to_module", TeamToModule), ("_module_to_env", ModuleToTeam)):
            if [type(connector) for connector in getattr(self, name).connectors] != [own]:
                return f"the config adds connectors ({name[1:]}_connector)"
        if self.module.max_seq_len and self._has_learner_connectors:
            return "learner connectors need the states of a policy with memory in episodes (learner_connector)"
        if self.config.episode_lookback_horizon > 1:
            return "episodes have a lookback of more than one step (episode_lookback_horizon)"
        for name in _DURING_EPISODES:
            if self._has_callback(name):
                return f"the config has a callback {name}"
        return None

    @cached_property
    def _writes_rollouts(self) -> bool:
        obstacle = self.obstacle()
        if obstacle is not None:
            logger.info("Sampling uses RLlib's own loop, which is slower: %s.", obstacle)
        return obstacle is None

    def _has_callback(self, name: str) -> bool:
        """Return whether the user has set this callback, as a method or as a function."""
        default = getattr(RLlibCallback, name)
        methods = [getattr(type(c), name) for c in self._callbacks if not isinstance(c, TeamMetrics)]
        return bool(getattr(self.config, f"callbacks_{name}")) or any(method is not default for method in methods)

    @property
    def _rewards_may_change(self) -> bool:
        return any(map(self._has_callback, _WITH_EPISODES))

    @property
    def _has_learner_connectors(self) -> bool:
        config = self.config
        return bool(config._learner_connector) or not config.add_default_connectors_to_learner_pipeline

    @override(SingleAgentEnvRunner)
    def _sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> Any:
        if random_actions or not self._writes_rollouts:
            # RLlib's loop cannot continue episodes of this loop.
            force_reset = force_reset or (num_timesteps is not None and self._obs is not None)
            self._obs = None
            return super()._sample(
                num_timesteps=num_timesteps,
                num_episodes=num_episodes,
                explore=explore,
                random_actions=random_actions,
                force_reset=force_reset,
            )
        if force_reset or num_episodes is not None or self._needs_initial_reset or self._obs is None:
            self._reset_all()
        with _threads_for(self.num_envs * self.env.unwrapped.layout.n_agents), ExitStack() as self._fixed_weights:
            self._fix_weights()
            rollout, steps = self._roll_out(num_timesteps, num_episodes, explore)
        if num_episodes is not None:
            self._needs_initial_reset = True
        # As in RLlib, the count includes steps of unfinished episodes beyond `num_episodes`.
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=steps)
        self._increase_sampled_metrics(steps, sum(segment.is_done for segment in rollout.segments))
        return rollout

    def _fix_weights(self) -> None:
        """Let the network pack its current weights once for the rest of the rollout."""
        self._fixed_weights.close()
        self._fixed_weights.enter_context(self.module.network.fixed_weights())

    def _reset_all(self) -> None:
        """Start an episode in every environment."""
        self._obs, self._obs_infos = self._try_env_reset()
        self._needs_initial_reset = False
        self._done[:] = False
        self._record_starts(np.ones(self.num_envs, np.bool_))

    def _record_starts(self, envs: np.ndarray) -> None:
        """Record that episodes start in the environments of the mask `envs` (B,)."""
        self._record.start(envs)
        if self._earlier:
            for env in np.flatnonzero(envs).tolist():
                self._earlier.pop(env, None)

    def _roll_out(self, num_timesteps: int | None, num_episodes: int | None, explore: bool) -> tuple[Rollout, int]:
        """Sample at least `num_timesteps` steps, or `num_episodes` episodes; return the rollout and all steps made."""
        # At least every other row is a step: the row after an episode's end is a reset.
        capacity = _INITIAL_CAPACITY if num_timesteps is None else 2 * -(-num_timesteps // self.num_envs) + 1
        assert self._obs is not None
        buffer = RolloutBuffer(
            self.env.unwrapped.layout,
            self.num_envs,
            capacity,
            self._obs,
            lengths_before=self._record.lengths.copy(),
            episodes_before=self._record.counts.copy(),
            env_ids=self._record.env_ids,
            weights_seq_no=self._weights_seq_no,
            spaces=(self.env.single_observation_space, self.env.single_action_space),
            max_seq_len=self.module.max_seq_len,
        )
        calls_episode_end = self._has_callback("on_episode_end")
        keeps_infos = self._has_learner_connectors or self._rewards_may_change  # something may read all of them
        if keeps_infos:
            buffer.infos.update({(-1, env): info for env, info in enumerate(self._obs_infos) if info})
        steps = episodes = t = 0
        seconds = {"network": 0.0, "environment": 0.0, "rollout": -time.perf_counter()}
        while steps < num_timesteps if num_timesteps is not None else episodes < (num_episodes or 0):
            if t == buffer.capacity:
                buffer.grow()
            clock = time.perf_counter()
            outputs = self._act(buffer, t, steps, explore)
            seconds["network"] += time.perf_counter() - clock
            clock = time.perf_counter()
            step_result = self._step_into(outputs[Columns.ACTIONS], buffer.blank_obs(t + 1))
            seconds["environment"] += time.perf_counter() - clock
            steps += self._write_step(buffer, t, step_result, keeps_infos)
            if self._done.any():
                finished = np.flatnonzero(self._done).tolist()
                finished = finished if num_episodes is None else finished[: num_episodes - episodes]
                episodes += len(finished)
                for env in finished:
                    self._record.finish(env, buffer.infos[t, env])
                if calls_episode_end:
                    self._call_on_episode_end(buffer.rollout(t + 1), finished)
            t += 1
        self._obs = {key: array[t].copy() for key, array in buffer.obs.items()}
        if keeps_infos and t:
            self._obs_infos = [row_info(buffer, t - 1, env) for env in range(self.num_envs)]
        last_state = tree.map_structure(_to_numpy, self._take_state()) if self.module.is_stateful() else None
        rollout = buffer.rollout(t, num_episodes=num_episodes, last_state=last_state)
        if calls_episode_end:
            for index, (env, *_, is_done) in enumerate(rollout.segments):
                if not is_done:
                    self._earlier[env].append(rollout[index])
        seconds["rollout"] += time.perf_counter() - seconds["network"] - seconds["environment"]
        self._log_seconds(seconds, t)
        return rollout, steps

    def _act(self, buffer: RolloutBuffer, t: int, steps: int, explore: bool) -> Arrays:
        """Compute the module's outputs for row `t`."""
        batch: dict[str, Any] = {Columns.OBS: buffer.obs_tensors(t)}
        if self._device is not None and torch.device(self._device).type != "cpu":
            batch = {Columns.OBS: {key: x.to(self._device, non_blocking=True) for key, x in batch[Columns.OBS].items()}}
        if self.module.is_stateful():
            batch[Columns.OBS] = {key: x.unsqueeze(1) for key, x in batch[Columns.OBS].items()}
            batch[Columns.STATE_IN] = self._take_state()
            if self.module.max_seq_len and t % self.module.max_seq_len == 0:
                buffer.states.append(tree.map_structure(_to_numpy, batch[Columns.STATE_IN]))
        if explore:
            runners = self.config.num_env_runners or 1  # RLlib's estimate of the steps of all of them
            lifetime = (self.num_env_steps_sampled_lifetime // runners + steps) * runners
            outputs = self.module.forward_exploration(batch, t=lifetime)
        else:
            outputs = self.module.forward_inference(batch)
        if Columns.STATE_OUT in outputs:
            self._state = outputs.pop(Columns.STATE_OUT)
            outputs = {key: x.squeeze(1) for key, x in outputs.items()}
        return buffer.write_outputs(t, outputs)

    def _take_state(self) -> Any:
        """Return the policy's state before the next step, zeroed where an episode begins."""
        if self._state is None:
            self._state = self.module.policy.initial_state(self.num_envs)
        starts = self._record.lengths == 0
        if not starts.any():
            return self._state
        return reset_state(self._state, torch.from_numpy(starts).to(tree.flatten(self._state)[0].device))

    def _step_into(self, actions: np.ndarray, obs: Arrays) -> tuple[Any, ...] | None:
        """Call `JointVector.step_into`; return None if the environments failed and were recreated."""
        (module_to_team,) = self._module_to_env.connectors
        try:
            return self.env.unwrapped.step_into(module_to_team.fit(actions), obs)
        except Exception as error:
            self.metrics.log_value(NUM_ENV_STEP_FAILURES_LIFETIME, 1, reduce="lifetime_sum")
            if not self.config.restart_failed_sub_environments:
                raise RuntimeError(f"stepping the environments failed: {error}") from error
            logger.warning("Stepping the environments failed; recreating them: %r", error)
            self.make_env()
            return None

    def _write_step(self, buffer: RolloutBuffer, t: int, step_result: tuple[Any, ...] | None, keeps_infos: bool) -> int:
        """Write the results of row `t`; return the number of steps in it."""
        if step_result is None:  # reset all environments, as after the end of an episode
            buffer.write_failure(t)
            self._reset_all()
            assert self._obs is not None
            buffer.write_obs(t + 1, self._obs)
            if keeps_infos:
                buffer.infos.update({(t, env): info for env, info in enumerate(self._obs_infos) if info})
            return 0
        rewards, terminated, truncated, _ = step_result
        if self._done.any():
            self._record_starts(self._done)
        buffer.write_step(t, ~self._done, step_result, keeps_infos)
        self._record.lengths += buffer.is_step[t]
        self._record.returns += rewards
        self._done = terminated | truncated  # (B,)
        return int(np.count_nonzero(buffer.is_step[t]))

    @override(JointEnvRunner)
    def sample(self, **kwargs: Any) -> Any:
        samples = super().sample(**kwargs)
        if isinstance(samples, Rollout) and self._rewards_may_change:
            self._record.take_changes(samples)
        return samples

    def _call_on_episode_end(self, rollout: Rollout, envs: list[int]) -> None:
        """Call the user's callbacks for the episodes of `envs` that ended in the rollout's last row."""
        for segment in rollout.segments:
            if segment.is_done and segment.last == rollout.num_rows and segment.env in envs:
                make_callback(
                    "on_episode_end",
                    callbacks_objects=[c for c in self._callbacks if not isinstance(c, TeamMetrics)],
                    callbacks_functions=self.config.callbacks_on_episode_end,
                    kwargs={
                        "episode": make_episode(rollout, segment),
                        "prev_episode_chunks": self._earlier.pop(segment.env, []),
                        "env_runner": self,
                        "metrics_logger": self.metrics,
                        "env": self.env.unwrapped,
                        "rl_module": self.module,
                        "env_index": segment.env,
                    },
                )
        self._fix_weights()  # callbacks may have changed them

    def _log_seconds(self, seconds: dict[str, float], rows: int) -> None:
        """Log the seconds spent per part: the means that RLlib logs, and sums for `rllib profile`."""
        self.metrics.log_value(RLMODULE_INFERENCE_TIMER, seconds["network"] / max(1, rows))
        self.metrics.log_value(ENV_STEP_TIMER, seconds["environment"] / max(1, rows))
        for part, spent in seconds.items():
            self.metrics.log_value(("seconds", part), spent, reduce="sum")

    @override(SingleAgentEnvRunner)
    def get_metrics(self) -> dict[str, Any]:
        self._record.log(self)
        result: dict[str, Any] = super().get_metrics()
        return result


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


@contextmanager
def _threads_for(tokens: int) -> Iterator[None]:
    """Use one torch thread for small batches, on which several would mostly wait and slow down the simulator."""
    before = torch.get_num_threads()
    if tokens < _TOKENS_FOR_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
