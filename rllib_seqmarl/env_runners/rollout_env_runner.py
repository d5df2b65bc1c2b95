"""The env runner that samples at the speed of simulator and network: arrays in place, no objects per step."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core.columns import Columns
from ray.rllib.env.env_runner import NUM_ENV_STEP_FAILURES_LIFETIME
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import ENV_STEP_TIMER, RLMODULE_INFERENCE_TIMER

from rllib_seqmarl.env_runners.finished_episodes import FinishedEpisodes
from rllib_seqmarl.env_runners.joint_env_runner import JointEnvRunner
from rllib_seqmarl.env_runners.rollout_buffer import RolloutBuffer
from rllib_seqmarl.env_runners.team_metrics import TeamMetrics
from rllib_seqmarl.envs.joint_env_creator import JointVector
from rllib_seqmarl.envs.layout import Arrays
from rllib_seqmarl.modules.team_connectors import ModuleToTeam, TeamToModule
from rllib_seqmarl.ops.decoding.cached_pack import cached_packs
from rllib_seqmarl.rollouts import Rollout
from rllib_seqmarl.rollouts.episodes import make_episode, row_info

logger = logging.getLogger(__name__)

# Callbacks that are called with an episode in the making: only RLlib's loop has one.
_DURING_EPISODES = ("on_episode_created", "on_episode_start", "on_episode_step")
# Callbacks that are called with complete episodes or pieces of them, and may read or change them.
_WITH_EPISODES = ("on_episode_end", "on_sample_end")
_IN_ARRAYS = (
    "agent_rewards",
    "agent_terminateds",
    "agent_earns",
    "team_reward",
)  # infos that a rollout holds as arrays
_UNKNOWN = "not looked for yet"
_TOKENS_FOR_THREADS = 1 << 13  # agents in all environments
_FIRST_CAPACITY = 128  # rows for whole episodes, whose number of steps is unknown; doubled as needed


class RolloutEnvRunner(JointEnvRunner):
    """Samples rollouts: each step's observations, actions, log-probabilities and values written where they stay.

    A sample is a `Rollout`. It is also the sequence of episodes that RLlib's samples are, made on demand for
    `on_episode_end` and `on_sample_end` callbacks and for a user's learner connectors. Its pieces of episodes have no
    lookback, and share the rollout's memory: the learner sees every change of their rewards, observations or actions.

    `episode.get_infos(i)` is the joint info (see `JointEnv`). Under "agent_infos" it holds the infos that the user's
    environment gave, by agent: `episode.get_infos(-1)["agent_infos"]["agent_0"]["collisions"]`. The infos of the last
    steps of episodes are always kept; those of all other steps and of resets only with callbacks `on_episode_end` or
    `on_sample_end` or learner connectors in the config.

    Steps, resets, seeds, random numbers and metrics are those of RLlib's own loop, which takes over where something
    has to happen at every step: connectors between environment and module that the user adds, callbacks
    `on_episode_created`, `on_episode_start` and `on_episode_step`, random actions, and environments that are
    vectorised by gymnasium (those whose creators look at RLlib's `EnvContext`).
    """

    _needs_initial_reset: bool

    @override(SingleAgentEnvRunner)
    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:
        # These outlive environments that are replaced after a failure.
        self._finished = FinishedEpisodes()
        self._env_ids: list[str] = []
        super().__init__(config=config, **kwargs)

    @override(SingleAgentEnvRunner)
    def make_env(self) -> None:
        super().make_env()
        if len(self._env_ids) != self.num_envs:
            self._env_ids = [f"{uuid4().hex}_{env}" for env in range(self.num_envs)]
            self._begun = np.zeros(self.num_envs, np.int64)  # episodes
        # What is seen now, and whose episode is over; None before the first reset.
        self._seen: Arrays | None = None
        self._done = np.zeros(self.num_envs, np.bool_)
        self._lengths = np.zeros(self.num_envs, np.int64)  # of the running episodes
        self._returns = np.zeros(self.num_envs)
        self._started = np.zeros(self.num_envs)  # when, by the performance counter
        self._seen_infos: list[dict[str, Any]] = []  # that came with the latest observations, if infos are kept
        self._earlier: dict[int, list[SingleAgentEpisode]] = defaultdict(list)  # pieces of running episodes
        self._obstacle: str | None = _UNKNOWN

    def obstacle(self) -> str | None:
        """Why RLlib's own loop has to run: what must happen at every step besides acting and stepping."""
        if self.module is None:
            return "there is no module to act with"
        if not isinstance(self.env.unwrapped, JointVector):
            return "gymnasium vectorises the environment (gym_env_vectorize_mode), or its creator takes an EnvContext"
        for name, own in (("_env_to_module", TeamToModule), ("_module_to_env", ModuleToTeam)):
            if [type(connector) for connector in getattr(self, name).connectors] != [own]:
                return f"the config adds connectors ({name[1:]}_connector)"
        if self.config.episode_lookback_horizon > 1:
            return "episodes keep more than one step of their past (episode_lookback_horizon)"
        for name in _DURING_EPISODES:
            if self._has_callback(name):
                return f"the config has a callback {name}"
        return None

    @property
    def _writes_rollouts(self) -> bool:
        if self._obstacle is _UNKNOWN:
            self._obstacle = self.obstacle()
            if self._obstacle is not None:
                logger.info("Sampling goes by RLlib's own loop, which is slower: %s.", self._obstacle)
        return self._obstacle is None

    def _has_callback(self, name: str) -> bool:
        """Whether the user has given such a callback, as a method or as a function."""
        own = getattr(RLlibCallback, name)
        methods = [getattr(type(c), name) for c in self._callbacks if not isinstance(c, TeamMetrics)]
        return bool(getattr(self.config, f"callbacks_{name}")) or any(method is not own for method in methods)

    @property
    def _rewards_may_change(self) -> bool:
        return any(map(self._has_callback, _WITH_EPISODES))

    @property
    def _keeps_infos(self) -> bool:
        """Whether something may read the infos of all steps."""
        config = self.config
        has_connectors = config._learner_connector or not config.add_default_connectors_to_learner_pipeline
        return bool(has_connectors) or self._rewards_may_change

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
            # What the other loop left running cannot be gone on with.
            force_reset = force_reset or (num_timesteps is not None and self._seen is not None)
            self._seen = None
            return super()._sample(
                num_timesteps=num_timesteps,
                num_episodes=num_episodes,
                explore=explore,
                random_actions=random_actions,
                force_reset=force_reset,
            )
        if force_reset or num_episodes is not None or self._needs_initial_reset or self._seen is None:
            self._reset_all()
        with _threads_for(self.num_envs * self.env.unwrapped.layout.n_agents), cached_packs() as self._packs:
            rollout, steps = self._roll_out(num_timesteps, num_episodes, explore)
        if num_episodes is not None:
            self._needs_initial_reset = True
        # As RLlib counts, steps of episodes that were begun beyond `num_episodes` are steps as well.
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=steps)
        self._increase_sampled_metrics(steps, sum(segment.is_done for segment in rollout.segments))
        return rollout

    def _reset_all(self) -> None:
        """Starts an episode in every environment."""
        self._seen, self._seen_infos = self._try_env_reset()
        self._needs_initial_reset = False
        self._done[:] = False
        self._begin(np.ones(self.num_envs, np.bool_))

    def _begin(self, envs: np.ndarray) -> None:
        """Notes that episodes begin in `envs` (B,)."""
        self._lengths[envs] = 0
        self._returns[envs] = 0.0
        self._started[envs] = time.perf_counter()
        self._begun[envs] += 1
        if self._earlier:
            for env in np.flatnonzero(envs).tolist():
                self._earlier.pop(env, None)

    def _roll_out(self, num_timesteps: int | None, num_episodes: int | None, explore: bool) -> tuple[Rollout, int]:
        """Steps all environments until there are so many steps, or ends of episodes; returns how many steps it took."""
        # At least every other row is a step: the row after an episode's end is a reset.
        capacity = _FIRST_CAPACITY if num_timesteps is None else 2 * -(-num_timesteps // self.num_envs) + 1
        assert self._seen is not None
        buffer = RolloutBuffer(self.env.unwrapped.layout, self.num_envs, capacity, self._seen)
        before = {"lengths_before": self._lengths.copy(), "episodes_before": self._begun.copy()}
        tells_ends, keeps_infos = self._has_callback("on_episode_end"), self._keeps_infos
        if keeps_infos:
            buffer.infos.update({(-1, env): info for env, info in enumerate(self._seen_infos) if info})
        steps = episodes = t = 0
        seconds = {"network": 0.0, "environment": 0.0, "rollout": -time.perf_counter()}
        while steps < num_timesteps if num_timesteps is not None else episodes < (num_episodes or 0):
            if t == buffer.capacity:
                buffer.grow()
            clock = time.perf_counter()
            outputs = self._act(buffer, t, steps, explore)
            seconds["network"] += time.perf_counter() - clock
            clock = time.perf_counter()
            stepped = self._step_into(outputs[Columns.ACTIONS], buffer.blank_obs(t + 1))
            seconds["environment"] += time.perf_counter() - clock
            steps += self._take_in(buffer, t, stepped, keeps_infos)
            if self._done.any():
                over = np.flatnonzero(self._done).tolist()
                over = over if num_episodes is None else over[: num_episodes - episodes]
                episodes += len(over)
                self._finish(buffer, t, over)
                if tells_ends:
                    self._call_on_episode_end(self._cut(buffer, t + 1, before), over)
            t += 1
        self._seen = {key: array[t].copy() for key, array in buffer.obs.items()}
        if keeps_infos and t:
            self._seen_infos = [row_info(buffer, t - 1, env) for env in range(self.num_envs)]
        rollout = self._cut(buffer, t, before, num_episodes)
        if tells_ends:
            for index, (env, *_, is_done) in enumerate(rollout.segments):
                if not is_done:
                    self._earlier[env].append(rollout[index])
        seconds["rollout"] += time.perf_counter() - seconds["network"] - seconds["environment"]
        self._log_seconds(seconds, t)
        return rollout, steps

    def _act(self, buffer: RolloutBuffer, t: int, steps: int, explore: bool) -> Arrays:
        """The module's outputs for row `t`."""
        batch = {Columns.OBS: buffer.obs_tensors(t)}
        if self._device is not None and torch.device(self._device).type != "cpu":
            batch = {Columns.OBS: {key: x.to(self._device, non_blocking=True) for key, x in batch[Columns.OBS].items()}}
        assert self.module is not None
        if not explore:
            return buffer.write_outputs(t, self.module.forward_inference(batch))
        runners = self.config.num_env_runners or 1  # RLlib's estimate of the steps of all of them
        lifetime = (self.num_env_steps_sampled_lifetime // runners + steps) * runners
        return buffer.write_outputs(t, self.module.forward_exploration(batch, t=lifetime))

    def _step_into(self, actions: np.ndarray, seen: Arrays) -> tuple[Any, ...] | None:
        """As `JointVector.step_into`; None if the environments failed and were recreated."""
        (fit,) = self._module_to_env.connectors
        try:
            return self.env.unwrapped.step_into(fit.fit(actions), seen)
        except Exception as error:
            self.metrics.log_value(NUM_ENV_STEP_FAILURES_LIFETIME, 1, reduce="lifetime_sum")
            if not self.config.restart_failed_sub_environments:
                raise RuntimeError(f"stepping the environments failed: {error}") from error
            logger.warning("Stepping the environments failed, and they are recreated: %r", error)
            self.make_env()
            return None

    def _take_in(self, buffer: RolloutBuffer, t: int, stepped: tuple[Any, ...] | None, keeps_infos: bool) -> int:
        """Writes what came of row `t`; returns how many steps it was."""
        if stepped is None:
            # All are reset, as after the end of an episode; earlier samples remain valid.
            for part in (buffer.is_step, buffer.terminated, buffer.truncated):
                part[t] = False
            buffer.rewards[t], buffer.env_rewards[t], buffer.agent_rewards[t] = 0.0, 0.0, 0.0
            self._reset_all()
            assert self._seen is not None
            buffer.see(t + 1, self._seen)
            if keeps_infos:
                buffer.infos.update({(t, env): info for env, info in enumerate(self._seen_infos) if info})
            return 0
        rewards, terminated, truncated, infos = stepped
        reset_mask, over = self._done, terminated | truncated  # (B,)
        if reset_mask.any():
            self._begin(reset_mask)
        np.logical_not(reset_mask, out=buffer.is_step[t])
        buffer.rewards[t] = buffer.env_rewards[t] = rewards
        buffer.terminated[t], buffer.truncated[t] = terminated, truncated
        buffer.agent_rewards[t] = infos["agent_rewards"]
        if "agent_terminateds" in infos:
            some = infos["_agent_terminateds"]  # (B,)
            buffer.agent_terminated[t, some] = np.stack(list(infos["agent_terminateds"][some])).astype(bool)
        if "agent_earns" in infos:
            some = infos["_agent_earns"]  # (B,)
            buffer.agent_earns[t, some] = np.stack(list(infos["agent_earns"][some])).astype(bool)
        self._lengths += buffer.is_step[t]
        self._returns += rewards
        self._done = over
        if keeps_infos or over.any():
            for key in infos:
                if key[0] == "_" or key in _IN_ARRAYS:
                    continue
                kept = infos[f"_{key}"] if keeps_infos else infos[f"_{key}"] & over  # (B,)
                for env in np.flatnonzero(kept).tolist():
                    buffer.infos.setdefault((t, env), {})[key] = infos[key][env]
        return int(np.count_nonzero(buffer.is_step[t]))

    def _finish(self, buffer: RolloutBuffer, t: int, envs: list[int]) -> None:
        """Notes the episodes that ended in row `t`, for metrics."""
        now = time.perf_counter()
        for env in envs:
            length, team_return = int(self._lengths[env]), float(self._returns[env])
            self._finished.add(length, team_return, now - self._started[env], buffer.infos[t, env])

    def _cut(
        self, buffer: RolloutBuffer, rows: int, before: dict[str, Any], num_episodes: int | None = None
    ) -> Rollout:
        spaces = self.env.single_observation_space, self.env.single_action_space
        return buffer.rollout(
            rows,
            **before,
            env_ids=self._env_ids,
            weights_seq_no=self._weights_seq_no,
            spaces=spaces,
            num_episodes=num_episodes,
        )

    @override(JointEnvRunner)
    def sample(self, **kwargs: Any) -> Any:
        samples = super().sample(**kwargs)
        if isinstance(samples, Rollout) and self._rewards_may_change:
            self._log_changed_returns(samples)
        return samples

    def _log_changed_returns(self, rollout: Rollout) -> None:
        """Corrects the returns to be logged for what callbacks have changed, as RLlib's loop does."""
        rollout.take_changes()
        changes = rollout.rewards - rollout.env_rewards  # (T, B)
        sums = [float(changes[part.first : part.last, part.env].sum()) for part in rollout.segments]
        num_ended = sum(segment.is_done for segment in rollout.segments)  # these come first
        self._finished.change_returns(sums[:num_ended])
        for segment, change in zip(rollout.segments[num_ended:], sums[num_ended:], strict=True):
            self._returns[segment.env] += change

    def _call_on_episode_end(self, rollout: Rollout, envs: list[int]) -> None:
        """The user's callbacks for the episodes of `envs`, which ended in the rollout's last row."""
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
        self._packs.clear()  # callbacks may have changed them

    def _log_seconds(self, seconds: dict[str, float], rows: int) -> None:
        """Log the time spent by part: the means that RLlib logs, and sums for `rllib profile`."""
        self.metrics.log_value(RLMODULE_INFERENCE_TIMER, seconds["network"] / max(1, rows))
        self.metrics.log_value(ENV_STEP_TIMER, seconds["environment"] / max(1, rows))
        for part, spent in seconds.items():
            self.metrics.log_value(("seconds", part), spent, reduce="sum")

    @override(SingleAgentEnvRunner)
    def get_metrics(self) -> dict[str, Any]:
        self._finished.log(self)
        result: dict[str, Any] = super().get_metrics()
        return result


@contextmanager
def _threads_for(tokens: int) -> Iterator[None]:
    """One torch thread, for batches on which several would mostly wait for one another, at the simulator's expense."""
    before = torch.get_num_threads()
    if tokens < _TOKENS_FOR_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
