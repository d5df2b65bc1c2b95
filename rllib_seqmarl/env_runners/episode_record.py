"""A record of running and finished episodes, for metrics."""

import time
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from rllib_seqmarl.env_runners.team_metrics import log_team_episode
from rllib_seqmarl.rollouts import Rollout


class FinishedEpisode(NamedTuple):
    """An episode's number of steps, team return, duration in seconds and last step's info."""

    length: int
    team_return: float
    seconds: float
    info: dict[str, Any]


class EpisodeRecord:
    """The running episodes of B environments, and those that have ended since metrics were last logged.

    It logs the metrics of RLlib and of `TeamMetrics`, without RLlib's episode objects.

    Attributes:
        env_ids: A name for each environment; kept when environments are replaced after a failure.
        counts: The number of episodes that each environment has started, (B,).
        lengths: The number of steps of the running episodes, (B,).
        returns: Their team returns, (B,).
    """

    def __init__(self) -> None:
        self._finished: list[FinishedEpisode] = []
        self.env_ids: list[str] = []

    def replace_envs(self, num_envs: int) -> None:
        """Forget running episodes, since there are new environments."""
        if len(self.env_ids) != num_envs:
            self.env_ids = [f"{uuid4().hex}_{env}" for env in range(num_envs)]
            self.counts = np.zeros(num_envs, np.int64)
        self.lengths = np.zeros(num_envs, np.int64)
        self.returns = np.zeros(num_envs)
        self._start_times = np.zeros(num_envs)  # from time.perf_counter()

    def start(self, envs: np.ndarray) -> None:
        """Record that episodes start in the environments of the mask `envs` (B,)."""
        self.lengths[envs] = 0
        self.returns[envs] = 0.0
        self._start_times[envs] = time.perf_counter()
        self.counts[envs] += 1

    def finish(self, env: int, info: dict[str, Any]) -> None:
        """Record that the episode of environment `env` has ended with this info."""
        seconds = time.perf_counter() - self._start_times[env]
        self._finished.append(FinishedEpisode(int(self.lengths[env]), float(self.returns[env]), seconds, info))

    def take_changes(self, rollout: Rollout) -> None:
        """Add changes of rewards by callbacks to the returns of the last rollout's episodes, as RLlib's loop does."""
        rollout.take_changes()
        changes = rollout.rewards - rollout.env_rewards  # (T, B)
        index = len(self._finished) - sum(segment.is_done for segment in rollout.segments)
        for env, first, last, is_done in rollout.segments:  # finished ones first
            change = float(changes[first:last, env].sum())
            if is_done:
                episode = self._finished[index]
                self._finished[index] = episode._replace(team_return=episode.team_return + change)
                index += 1
            else:
                self.returns[env] += change

    def log(self, env_runner: Any) -> None:
        """Log the finished episodes that affect metrics, and clear all."""
        # Metrics are means over the last episodes, so earlier ones need not be logged.
        window = env_runner.config.metrics_num_episodes_for_smoothing
        agents = [str(agent) for agent in env_runner.env.unwrapped.get_attr("layout")[0].agents]
        is_mixture = any("task" in episode.info for episode in self._finished)  # each task has its own window
        for episode in self._finished if is_mixture else self._finished[-window:]:
            env_runner._log_episode_metrics(episode.length, episode.team_return, episode.seconds)
            log_team_episode(env_runner.metrics, agents, episode.info, window)
        self._finished.clear()
