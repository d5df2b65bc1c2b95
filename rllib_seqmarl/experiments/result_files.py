"""Maintenance of a trial's `result.json` and `progress.csv`, so that repeated iterations appear only once."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.fs
from ray.tune.logger import CSVLoggerCallback

from rllib_seqmarl.experiments.metrics import ENV_STEPS, ITERATION, metric

Ends = Callable[[list[str]], Iterator[tuple[float, int]]]


class ResultFiles(CSVLoggerCallback):
    """A replacement for Tune's CSV logger that keeps the files of restarted trials consistent."""

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        if trial not in self._trial_files:
            self._setup_trial(trial)
        if self._trial_continue[trial] and self._trial_csv[trial] is None:
            # Tune would use the columns of the next result, which may differ from the file's header.
            with Path(trial.local_path, "progress.csv").open() as file:
                header = next(csv.reader(file))
            self._trial_csv[trial] = csv.DictWriter(self._trial_files[trial], header)
        super().log_trial_result(iteration, trial, result)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        latest = trial.latest_checkpoint_result
        drop_results_after(trial.local_path, latest.metrics.get(ITERATION, 0) if latest else 0)
        self.log_trial_end(trial)
        # Tune's loggers will fetch the files from storage, where they are as old as the last synchronisation.
        for name in FILES:
            if Path(trial.local_path, name).exists():
                pyarrow.fs.copy_files(
                    f"{trial.local_path}/{name}",
                    f"{trial.storage.trial_fs_path}/{name}",
                    source_filesystem=pyarrow.fs.LocalFileSystem(),
                    destination_filesystem=trial.storage.storage_filesystem,
                )


def drop_results_after(trial_folder: str, iteration: int, fs: pyarrow.fs.FileSystem | None = None) -> None:
    """Truncate a trial's `result.json` and `progress.csv` after the last iteration to keep; 0 for none.

    Training is repeated from there. `fs` is the file system of the folder, by default the local one.
    """
    fs = fs or pyarrow.fs.LocalFileSystem()
    for name, ends in FILES.items():
        _truncate(fs, f"{trial_folder}/{name}", partial(_bytes_until, iteration, ends))


def drop_events_after(trial_folder: str, iteration: int, fs: pyarrow.fs.FileSystem | None = None) -> None:
    """Truncate a trial's TensorBoard files in the same way.

    Must precede `drop_results_after`, since it reads steps from the results.
    """
    fs = fs or pyarrow.fs.LocalFileSystem()
    path = f"{trial_folder}/result.json"
    if fs.get_file_info(path).type != pyarrow.fs.FileType.File:
        return
    content = read_bytes(fs, path)
    kept = _bytes_until(iteration, _ends_of_results, content)
    steps = _steps(content[kept:]) - _steps(content[:kept])
    for entry in fs.get_file_info(pyarrow.fs.FileSelector(trial_folder)):
        if entry.base_name.startswith("events.out.tfevents"):
            _truncate(fs, entry.path, partial(_events_until, steps))


def _truncate(fs: pyarrow.fs.FileSystem, path: str, length: Callable[[bytes], int]) -> None:
    if fs.get_file_info(path).type != pyarrow.fs.FileType.File:
        return
    content = read_bytes(fs, path)
    kept = length(content)
    if isinstance(fs, pyarrow.fs.LocalFileSystem):
        os.truncate(path, kept)  # in place, since a logger may have it open
    elif kept < len(content):
        with fs.open_output_stream(path) as file:
            file.write(content[:kept])


def read_bytes(fs: pyarrow.fs.FileSystem, path: str) -> bytes:
    """Return the content of a file."""
    with fs.open_input_stream(path) as file:
        return bytes(file.readall())


def _steps(results: bytes) -> set[int]:
    """Return the step numbers that loggers may have used for these results."""
    found = set()
    for line in results.splitlines():
        with suppress(ValueError):
            result = json.loads(line)
            found |= {int(metric(result, name) or 0) for name in (ITERATION, ENV_STEPS, "timesteps_total")}
    return found


def _events_until(steps: set[int], content: bytes) -> int:
    """Return the number of bytes in a TensorBoard file before the first event at one of the steps."""
    from tensorboardX.proto.event_pb2 import Event

    end = 0
    while True:  # a record is its length in 8 bytes, a checksum in 4, the event, and a checksum in 4
        size = int.from_bytes(content[end : end + 8], "little")
        following = end + 16 + size
        if following > len(content) or Event.FromString(content[end + 12 : following - 4]).step in steps:
            return end
        end = following


def _bytes_until(iteration: int, ends: Ends, content: bytes) -> int:
    """Return the number of bytes of the results up to an iteration.

    Population-based training goes back in iterations, so the last result of the iteration counts.
    """
    if iteration == 0:
        return 0
    lines = content.splitlines(keepends=True)
    kept, passed = 0, False
    for found, end in ends([line.decode(errors="replace") for line in lines]):
        passed |= found > iteration
        if found == iteration or not passed:
            kept = end
    return sum(map(len, lines[:kept]))


def _ends_of_results(lines: list[str]) -> Iterator[tuple[float, int]]:
    """Yield the iteration of each result in JSON lines, and the number of lines up to its end."""
    for number, line in enumerate(lines, start=1):
        try:
            yield metric(json.loads(line), ITERATION) or 0, number
        except ValueError:
            return  # an incomplete line, being written when the run was killed


def _ends_of_rows(lines: list[str]) -> Iterator[tuple[float, int]]:
    """Do the same for a CSV file, whose header counts as iteration 0."""
    reader = csv.DictReader(io.StringIO("".join(lines)))
    if reader.fieldnames:
        yield 0, reader.line_num
    for row in reader:
        yield metric(row, ITERATION) or 0, reader.line_num


FILES: dict[str, Ends] = {"result.json": _ends_of_results, "progress.csv": _ends_of_rows}
