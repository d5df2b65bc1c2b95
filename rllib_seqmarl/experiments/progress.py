"""Progress lines of a training run: steps, return, win rate, speed, time left."""

import logging
import time
from typing import Any

from ray.tune import Callback

from rllib_seqmarl.experiments.metrics import CLOCKS, ENV_STEPS, ITERATION, SECONDS, TEAM_RETURN, WIN_RATE, metric

logger = logging.getLogger(__name__)


class Progress(Callback):
    """Logs a progress line per trial every few seconds and at its end."""

    def __init__(self, name: str, num_trials: int | None, stop: dict[str, float], interval: float = 5.0) -> None:
        """Initialise the callback.

        Args:
            name: The experiment's name.
            num_trials: The number of trials; None if it is open.
            stop: The stop criteria, from which the remaining time is estimated.
            interval: Target maximum of seconds between two lines of a trial; exceeded if iterations take longer.
        """
        self.name = name
        self.num_trials = num_trials
        self.stop = stop
        self.interval = interval
        self._shown: dict[str, tuple[float, dict[str, Any]]] = {}  # trial id -> time and result of its last line

    def setup(self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any) -> None:
        work = "building the environments and networks"
        logger.info("%s | %s ...", self.name, work, extra={"under_way": f"{self.name} | {work}"})

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        label = self._label(trials, trial)
        logger.info("%s | first iteration ...", label, extra={"under_way": f"{label} | first iteration"})

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        now = time.monotonic()
        shown_at, before = self._shown.get(trial.trial_id, (float("-inf"), {}))
        # Print now if the next result, which may take as long as this one, would come too late.
        if now - shown_at + (metric(result, "time_this_iter_s") or 0.0) >= self.interval or result.get("done"):
            self._shown[trial.trial_id] = (now, result)
            label, following = self._label(trials, trial), (metric(result, ITERATION) or 0) + 1
            under_way = None if result.get("done") else f"{label} | iteration {following:.0f}"
            logger.info("%s", self.line(label, result, before), extra={"under_way": under_way})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        logger.info("%s | failed", self._label(trials, trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        logger.info("%s | done", self._label(trials, trial))

    def _label(self, trials: list[Any], trial: Any) -> str:
        if self.num_trials == 1:
            return self.name
        return f"{self.name} {trials.index(trial) + 1}/{self.num_trials or '?'}"

    def line(self, label: str, result: dict[str, Any], before: dict[str, Any]) -> str:
        """Return a line about `result`; its speed is measured since the result `before`."""
        steps, seconds = metric(result, ENV_STEPS) or 0.0, metric(result, SECONDS) or 0.0
        new_seconds = seconds - (metric(before, SECONDS) or 0.0)
        parts = [label, f"{steps:>11,.0f} steps"]
        team_return, win_rate = metric(result, TEAM_RETURN), metric(result, WIN_RATE)
        parts.append("return       ..." if team_return is None else f"return {team_return:>9.2f}")
        if win_rate is not None:
            parts.append(f"won {win_rate:>4.0%}")
        if new_seconds > 0:
            parts.append(f"{(steps - (metric(before, ENV_STEPS) or 0.0)) / new_seconds:>7,.0f} steps/s")
        left = self.seconds_left(result)
        if left is not None:
            parts.append(f"{duration(left)} left")
        return " | ".join(parts)

    def seconds_left(self, result: dict[str, Any]) -> float | None:
        """Estimate the training time until the first monotonic stop criterion is met; None if there is none."""
        elapsed = metric(result, SECONDS)
        left = []
        for name in CLOCKS:
            target, value = self.stop.get(name), metric(result, name)
            if target is not None and value and elapsed:
                left.append(max(0.0, (target - value) * elapsed / value))
        return min(left, default=None)


def duration(seconds: float) -> str:
    """Format seconds with at most two units: "8 s", "2 min 05 s", "1 h 03 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
