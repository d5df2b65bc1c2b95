"""A record of the episodes that ended since metrics were last requested."""

from __future__ import annotations

from typing import Any, NamedTuple

from rllib_seqmarl.env_runners.team_metrics import log_team_episode


class FinishedEpisode(NamedTuple):
    """An episode's number of steps, team return, duration in seconds and last step's info."""

    length: int
    team_return: float
    seconds: float
    info: dict[str, Any]


class FinishedEpisodes:
    """A log of finished episodes: the metrics of RLlib and `TeamMetrics`, without RLlib episode objects."""

    def __init__(self) -> None:
        self._episodes: list[FinishedEpisode] = []

    def add(self, length: int, team_return: float, seconds: float, info: dict[str, Any]) -> None:
        """Record an episode."""
        self._episodes.append(FinishedEpisode(length, team_return, seconds, info))

    def change_returns(self, changes: list[float]) -> None:
        """Add `changes` to the returns of the last `len(changes)` episodes."""
        first = len(self._episodes) - len(changes)
        for index, change in enumerate(changes, first):
            episode = self._episodes[index]
            self._episodes[index] = episode._replace(team_return=episode.team_return + change)

    def log(self, env_runner: Any) -> None:
        """Log the episodes that affect metrics, and clear all."""
        # Metrics are means over the last episodes, so earlier ones need not be logged.
        window = env_runner.config.metrics_num_episodes_for_smoothing
        agents = [str(agent) for agent in env_runner.env.unwrapped.get_attr("layout")[0].agents]
        is_mixture = any("task" in episode.info for episode in self._episodes)  # each task has its own window
        for episode in self._episodes if is_mixture else self._episodes[-window:]:
            env_runner._log_episode_metrics(episode.length, episode.team_return, episode.seconds)
            log_team_episode(env_runner.metrics, agents, episode.info, window)
        self._episodes.clear()
