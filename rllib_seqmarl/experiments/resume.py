"""Resuming of experiments: updates Tune's saved state and drops results after the last checkpoints.

Tune itself would keep the original stop criteria and configs, never continue finished trials, and append repeated
iterations to the existing results.
"""

import copy
import json
import logging
import re
from pathlib import Path
from typing import Any

import pyarrow.fs
from ray import cloudpickle
from ray.train._internal.storage import get_fs_and_path
from ray.tune.experiment import Trial
from ray.tune.utils import flatten_dict
from ray.tune.utils.serialization import TuneFunctionEncoder, _loads_with_cloudpickle

from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.experiment import Experiment
from rllib_seqmarl.experiments.experiment_record import ABSENT, config_changes, read_record
from rllib_seqmarl.experiments.metrics import ITERATION
from rllib_seqmarl.experiments.result_files import drop_events_after, drop_results_after, read_bytes
from rllib_seqmarl.experiments.trial_files import checkpoint_number

logger = logging.getLogger(__name__)

_STATE = re.compile(r"experiment_state-.*\.json")
_SEARCH_STATE = re.compile(r"(search_gen_state|basic-variant-state)-.*\.json")


class SavedRun:
    """The saved state of an experiment's earlier run."""

    def __init__(self, experiment: Experiment, folder: str) -> None:
        """Read the state from the experiment's folder or remote address.

        Raises:
            ExperimentError: The state cannot be read, or settings differ that cannot be changed.
        """
        self._experiment = experiment
        self._fs, self._folder = get_fs_and_path(folder)
        name = _newest(self._names(self._folder), _STATE)
        self.exists = name is not None
        if name is None:
            return
        self._path = f"{self._folder}/{name}"
        try:
            self._state = _loads_with_cloudpickle(read_bytes(self._fs, self._path))
            self._trials = [self._trial(*saved) for saved in self._state["trial_data"]]
            self._read_search()
        except Exception as error:  # damaged pickles inside the JSON may raise anything
            raise ExperimentError(
                f"{self._path}: the run's state is damaged ({type(error).__name__}); start an experiment under another "
                f"name with --restore and one of the checkpoints in {folder}."
            ) from error
        old = read_record(self._fs, self._folder)
        self._changes = {} if old is None else config_changes(old, experiment)
        if old is None:
            logger.info("%s: its config was not recorded and stays unchanged; only 'stop' is updated", experiment.name)

    @property
    def trial_ids(self) -> list[str]:
        return [trial.trial_id for trial in self._trials]

    def update(self, param_space: dict[str, Any]) -> None:
        """Write the experiment's settings into the saved state and prepare each trial to continue.

        Changed values of the config are taken from `param_space`, the config passed to Tune.
        """
        changes = {key: param_space.get(key, ABSENT) for key in self._changes}
        unfinished = 0
        for trial in self._trials:
            trial.stopping_criterion, old_stop = dict(self._experiment.stop), trial.stopping_criterion
            trial.max_failures = self._experiment.max_failures
            trial.run_metadata.num_failures = 0
            trial.run_metadata.checkpoint_manager._checkpoint_config = self._experiment.checkpoints
            _apply(changes, trial.config)
            _apply(changes, trial._Trial__unresolved_config)
            if trial.status == Trial.TERMINATED and self._should_continue(trial, old_stop):
                trial.status = Trial.PENDING
            if trial.status != Trial.TERMINATED:
                unfinished += 1
                self._rewind(trial)
            trial.invalidate_json_state()
            trial.run_metadata.invalidate_cache()
        self._state["trial_data"] = [trial.get_json_state() for trial in self._trials]
        # Use the time budget and checkpoint settings of this run.
        for key in ("_stopper", "_trial_checkpoint_config"):
            self._state["runner_data"].pop(key, None)
        self._write(self._path, json.dumps(self._state, cls=TuneFunctionEncoder).encode())
        self._update_search(changes)
        name, changed = self._experiment.name, f"; changed: {', '.join(changes)}" if changes else ""
        logger.info("%s: %d of %d trials continue%s", name, unfinished, len(self._trials), changed)

    def _should_continue(self, trial: Trial, old_stop: dict[str, float]) -> bool:
        """Whether a trial that ended without an error should continue; not if the scheduler stopped it."""
        result = flatten_dict(trial.last_result or {})

        def met(stop: dict[str, float]) -> bool:
            return any(result.get(name, float("-inf")) >= value for name, value in stop.items())

        return not met(self._experiment.stop) and (met(old_stop) or not result.get("done"))

    def _rewind(self, trial: Trial) -> None:
        """Drop the results and files of a trial after its last checkpoint."""
        manager = trial.run_metadata.checkpoint_manager
        existing = set(self._names(trial.path))
        manager._checkpoint_results = [
            result for result in manager._checkpoint_results if Path(result.checkpoint.path).name in existing
        ]
        latest = manager.latest_checkpoint_result
        if latest is not None and Path(latest.checkpoint.path).name not in existing:
            kept = sorted(manager._checkpoint_results, key=lambda result: result.metrics.get(ITERATION, 0))
            latest = manager._latest_checkpoint_result = kept[-1] if kept else None
        iteration = latest.metrics.get(ITERATION, 0) if latest else 0
        number = checkpoint_number(latest.checkpoint.path) if latest else -1
        for name in existing:
            if checkpoint_number(name) > number:
                self._fs.delete_dir(f"{trial.path}/{name}")  # written after the state, perhaps incompletely
        # The storage, and Ray's copy for this session.
        for folder, fs in ((trial.path, self._fs), (trial.local_path, None)):
            drop_events_after(folder, iteration, fs)
            drop_results_after(folder, iteration, fs)

    def _update_search(self, changes: dict[str, Any]) -> None:
        """Write the new settings into the state of the search, for trials that have not started."""
        path, state = self._read_search()
        if path is None:
            return
        specs = [iterator.unresolved_spec for iterator in state.get("_iterators", ())]
        if state.get("experiment") is not None:
            specs.append(state["experiment"].spec)
        for spec in specs:
            spec["stop"] = dict(self._experiment.stop)
            spec["max_failures"] = self._experiment.max_failures
            spec["checkpoint_config"] = self._experiment.checkpoints
            _apply(changes, spec["config"])
        self._write(path, cloudpickle.dumps(state))

    def _read_search(self) -> tuple[str | None, dict[str, Any]]:
        """Return the path and content of the search algorithm's state; None and an empty dict if there is none."""
        name = _newest(self._names(self._folder), _SEARCH_STATE)
        path = name and f"{self._folder}/{name}"
        return path, cloudpickle.loads(read_bytes(self._fs, path)) if path else {}

    def _trial(self, state: str, metadata: str) -> Trial:
        trial = Trial.from_json_state(state)
        trial.restore_run_metadata(metadata)
        storage = copy.copy(trial.storage)  # the folder may have been moved
        storage.storage_filesystem = self._fs
        storage.storage_fs_path, storage.experiment_dir_name = self._folder.rsplit("/", 1)
        trial.set_storage(storage)
        return trial

    def _names(self, folder: str) -> list[str]:
        selector = pyarrow.fs.FileSelector(folder, allow_not_found=True)
        return [entry.base_name for entry in self._fs.get_file_info(selector)]

    def _write(self, path: str, content: bytes) -> None:
        with self._fs.open_output_stream(f"{path}.new") as file:
            file.write(content)
        self._fs.move(f"{path}.new", path)


def _newest(names: list[str], pattern: re.Pattern[str]) -> str | None:
    return max(filter(pattern.fullmatch, names), default=None)


def _apply(changes: dict[str, Any], config: dict[str, Any]) -> None:
    for key, value in changes.items():
        if value is ABSENT:
            config.pop(key, None)
        else:
            config[key] = copy.deepcopy(value)
