"""Early stopping of a run, after a last checkpoint, by a signal or because of a metric that is never reported."""

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
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
        signum: The signal that requested the stop; None if there was none.
        problem: The problem with a metric that a setting names; None if there is none.
    """

    def __init__(self, settings: Mapping[str, str], allow_late: bool, resumed: Iterable[str] = ()) -> None:
        """Initialise the callback.

        Args:
            settings: Metric that must be reported -> the setting that names it, such as "stop".
            allow_late: Whether user callbacks may report metrics only after the first episodes.
            resumed: The ids of the trials that Tune must resume.
        """
        self.signum: int | None = None
        self.problem: str | None = None
        self._settings = settings
        self._missing = set(settings)
        self._allow_late = allow_late
        self._resumed = set(resumed)
        self._saved: set[str] = set()
        self._request: Callable[[int, Any], None] | None = None
        self._stop_tune: Any = None  # Tune's handler of SIGUSR1

    @property
    def is_requested(self) -> bool:
        return self.signum is not None or self.problem is not None

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Stop the run on SIGINT, SIGTERM and SIGUSR1; a second signal ends the process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

        def request(number: int, frame: Any) -> None:
            if self.signum is not None:
                raise KeyboardInterrupt
            self.signum = number
            logger.info(
                "%s received: running trials finish their iterations and save checkpoints. Repeat to stop at once.",
                signal.Signals(number).name,
            )

        for number in before:
            signal.signal(number, request)
        self._request = request
        try:
            yield
        finally:
            self._request = None
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._check_resumed(trials)
        if self._request is not None and signal.getsignal(signal.SIGUSR1) is not self._request:
            # Tune's handler stops without checkpoints. Schedulers send this signal to announce the end of a job.
            self._stop_tune = signal.signal(signal.SIGUSR1, self._request)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self._check_resumed(trials)

    def _check_resumed(self, trials: list[Trial]) -> None:
        """Raise an error if Tune restarted trials instead of resuming them, which it only logs."""
        if self._resumed - {trial.trial_id for trial in trials}:
            raise ExperimentError("the saved state of the run is damaged: Tune could not resume its trials.")

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if self._missing:
            self._check_metrics(result)
        if self.is_requested:
            result[SHOULD_CHECKPOINT] = True

    def on_trial_save(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self.is_requested:
            self._saved.add(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self.is_requested and all(
            trial.trial_id in self._saved for trial in trials if trial.status == Trial.RUNNING
        ):
            if self._stop_tune is not None:
                signal.signal(signal.SIGUSR1, self._stop_tune)
            signal.raise_signal(signal.SIGUSR1)  # makes Tune stop

    def _check_metrics(self, result: dict[str, Any]) -> None:
        """Find metrics that are still missing after the first finished episodes."""
        flat = flatten_dict(result)
        self._missing -= set(flat)
        for name in sorted(self._missing):
            evaluated = name.startswith("evaluation/")
            if metric(result, f"evaluation/{TEAM_RETURN}" if evaluated else TEAM_RETURN) is None:
                continue  # no episode has finished yet
            numbers = [
                key for key, value in flat.items() if isinstance(value, int | float) and not key.startswith("config/")
            ]
            near = did_you_mean(name, numbers) or did_you_mean(name.rsplit("/", 1)[-1], numbers)
            known = near or f" Reported are {', '.join(key for key in numbers if key.startswith('env_runners/'))}."
            if name.endswith("win_rate"):
                known = " The environment does not report wins."
            setting = self._settings[name]
            message = f"{setting}: metric '{name}' is not in the results.{known}"
            self._missing.discard(name)
            if self._allow_late:
                logger.warning("%s The setting has no effect unless a callback reports it later.", message)
            elif setting in ("search", "scheduler"):  # which a resumed run cannot change
                self.problem = f"{message} Correct it and start the experiment under another name."
            else:
                self.problem = f"{message} Correct it and continue with --resume."
