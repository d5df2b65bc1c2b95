"""Multi-agent metrics in addition to the team's return."""

import math
from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, EPISODE_RETURN_MEAN
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger


class TeamMetrics(RLlibCallback):
    """Log each agent's episode return, and the win rate if the environment reports wins.

    Training results contain them as `env_runners/agent_episode_returns_mean/<agent>`, as in RLlib's multi-agent
    results, and `env_runners/win_rate`. If the environment reports the task that it played (`multitask/mixture`), the
    team's return and win rate are also logged as `env_runners/task_returns_mean/<task>` and
    `.../task_win_rates/<task>`. The algorithm adds this callback to the user's callbacks.

    Every result contains `env_runners/episode_return_mean`, which is NaN until an episode has ended. RLlib omits it
    until then, so that Tune's searches, schedulers and stop criteria that refer to it would fail.
    """

    def __init__(self) -> None:
        super().__init__()
        self._agents: list[str] | None = None

    def on_episode_end(self, *, episode: Any, env_runner: Any, metrics_logger: Any, env: Any, **kwargs: Any) -> None:
        if self._agents is None:
            self._agents = [str(agent) for agent in env.get_attr("layout")[0].agents]
        window = env_runner.config.metrics_num_episodes_for_smoothing
        log_team_episode(metrics_logger, self._agents, episode.get_infos(-1), window)

    def on_train_result(self, *, result: dict[str, Any], **kwargs: Any) -> None:
        result.setdefault(ENV_RUNNER_RESULTS, {}).setdefault(EPISODE_RETURN_MEAN, math.nan)


def log_team_episode(metrics_logger: MetricsLogger, agents: list[str], info: dict[str, Any], window: int) -> None:
    """Log an episode from its last step's info; means are over the last `window` episodes."""
    for agent, agent_return in zip(agents, info["episode_agent_returns"], strict=True):
        metrics_logger.log_value(("agent_episode_returns_mean", agent), float(agent_return), window=window)
    if "win" in info:
        metrics_logger.log_value("win_rate", float(info["win"]), window=window)
    if "task" in info:
        metrics_logger.log_value(("task_returns_mean", info["task"]), info["episode_return"], window=window)
        if "win" in info:
            metrics_logger.log_value(("task_win_rates", info["task"]), float(info["win"]), window=window)
