"""Early ends of a run: a signal, after a last checkpoint, or a stop criterion that cannot be met."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.result import SHOULD_CHECKPOINT
from ray.tune.utils import flatten_dict

from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.metrics import TEAM_RETURN, metric
from rllib_seqmarl.suggestions import did_you_mean

logger = logging.getLogger(__name__)


class Stopping(Callback):
    """Ends a run early, with a checkpoint of every running trial.

    Attributes:
        signum: The signal that asked for it; None if none has.
        problem: What is wrong with the stop criteria; None if nothing is.
    """

    def __init__(self, stop: Iterable[str], late: bool, resumed: Iterable[str] = ()) -> None:
        """Initialises the callback.

        Args:
            stop: The metrics of the stop criteria.
            late: Whether some may be reported later than after the first episodes, by a user's callbacks.
            resumed: The ids of trials that Tune has to have taken up again.
        """
        self.signum: int | None = None
        self.problem: str | None = None
        self._unseen = set(stop)
        self._late = late
        self._resumed = set(resumed)
        self._saved: set[str] = set()

    @property
    def is_requested(self) -> bool:
        return self.signum is not None or self.problem is not None

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Lets SIGINT and SIGTERM end the run; a second one ends the process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def request(number: int, frame: Any) -> None:
            if self.signum is not None:
                raise KeyboardInterrupt
            self.signum = number
            logger.info(
                "%s received: running trials finish their iterations and save checkpoints. Again, to stop at once.",
                signal.Signals(number).name,
            )

        for number in before:
            signal.signal(number, request)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._check_resumed(trials)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self._check_resumed(trials)

    def _check_resumed(self, trials: list[Trial]) -> None:
        """Raises an error where Tune, whose own message is a log entry, has begun from the start instead."""
        if self._resumed - {trial.trial_id for trial in trials}:
            raise ExperimentError("the saved state of the run is damaged: Tune could not resume its trials.")

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if self._unseen:
            self._check_stop(result)
        if self.is_requested:
            result[SHOULD_CHECKPOINT] = True

    def on_trial_save(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self.is_requested:
            self._saved.add(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self.is_requested and all(
            trial.trial_id in self._saved for trial in trials if trial.status == Trial.RUNNING
        ):
            signal.raise_signal(signal.SIGUSR1)  # Tune's own way to be stopped

    def _check_stop(self, result: dict[str, Any]) -> None:
        """Finds criteria that no result will ever meet, as soon as all there is to report has been reported."""
        flat = flatten_dict(result)
        self._unseen -= set(flat)
        for name in sorted(self._unseen):
            evaluated = name.startswith("evaluation/")
            if metric(result, f"evaluation/{TEAM_RETURN}" if evaluated else TEAM_RETURN) is None:
                continue  # no episode has ended yet
            numbers = [
                key for key, value in flat.items() if isinstance(value, int | float) and not key.startswith("config/")
            ]
            near = did_you_mean(name, numbers) or did_you_mean(name.rsplit("/", 1)[-1], numbers)
            known = near or f" Reported are {', '.join(key for key in numbers if key.startswith('env_runners/'))}."
            if name.endswith("win_rate"):
                known = " The environment reports no wins."
            message = f"stop: metric '{name}' is not in the results.{known}"
            self._unseen.discard(name)
            if self._late:
                logger.warning("%s Unless a callback reports it later, training does not stop by it.", message)
            else:
                self.problem = f"{message} Correct it and continue with --resume."
