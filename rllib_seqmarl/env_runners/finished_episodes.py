"""The episodes that ended since metrics were last asked for."""

from __future__ import annotations

from typing import Any, NamedTuple

from rllib_seqmarl.env_runners.team_metrics import log_team_episode


class Finished(NamedTuple):
    """An episode's number of steps, the team's return, its seconds and the info of its last step."""

    length: int
    team_return: float
    seconds: float
    info: dict[str, Any]


class FinishedEpisodes:
    """Episodes to be logged as RLlib and `TeamMetrics` log them, without an object for each of them."""

    def __init__(self) -> None:
        self._episodes: list[Finished] = []

    def add(self, length: int, team_return: float, seconds: float, info: dict[str, Any]) -> None:
        """Notes an episode."""
        self._episodes.append(Finished(length, team_return, seconds, info))

    def change_returns(self, changes: list[float]) -> None:
        """Adds to the returns of as many episodes as there are changes, the last ones."""
        first = len(self._episodes) - len(changes)
        for place, change in enumerate(changes, first):
            episode = self._episodes[place]
            self._episodes[place] = episode._replace(team_return=episode.team_return + change)

    def log(self, env_runner: Any) -> None:
        """Logs all that metrics will look at, and forgets the episodes."""
        # Means are taken over the last episodes only, so that earlier ones need not be logged.
        window = env_runner.config.metrics_num_episodes_for_smoothing
        agents = [str(agent) for agent in env_runner.env.unwrapped.get_attr("layout")[0].agents]
        is_mixture = any("task" in episode.info for episode in self._episodes)  # whose tasks have windows of their own
        for episode in self._episodes if is_mixture else self._episodes[-window:]:
            env_runner._log_episode_metrics(episode.length, episode.team_return, episode.seconds)
            log_team_episode(env_runner.metrics, agents, episode.info, window)
        self._episodes.clear()
