"""Repeated iterations appear only once in a trial's files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs
import pytest
from tensorboardX import SummaryWriter

from rllib_seqmarl.experiments.result_files import ResultFiles, drop_events_after, drop_results_after


def write(folder: Path, iterations: list[int]) -> None:
    lines = [json.dumps({"training_iteration": iteration, "config": {}}) for iteration in iterations]
    (folder / "result.json").write_text("".join(f"{line}\n" for line in lines) + '{"training_iter')  # killed
    rows = [f'"a\nb",{iteration}' for iteration in iterations]
    (folder / "progress.csv").write_text("\n".join(["x,training_iteration", *rows, ""]))


def read(folder: Path) -> tuple[list[int], list[int]]:
    results = [json.loads(line)["training_iteration"] for line in (folder / "result.json").read_text().splitlines()]
    with (folder / "progress.csv").open() as file:
        return results, [int(row["training_iteration"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("written", "last", "kept"),
    [
        ([1, 2, 3, 4], 2, [1, 2]),
        ([1, 2, 3, 4], 4, [1, 2, 3, 4]),
        ([1, 2], 5, [1, 2]),
        ([1, 2], 0, []),
        ([], 3, []),
        ([2, 4, 6], 5, [2, 4]),
        ([1, 2, 3, 2, 3, 4], 3, [1, 2, 3, 2, 3]),  # population-based training copied another trial's weights
    ],
)
@pytest.mark.parametrize("fs", [None, pyarrow.fs.SubTreeFileSystem("/", pyarrow.fs.LocalFileSystem())])
def test_results_after_an_iteration_are_dropped(
    tmp_path: Path, written: list[int], last: int, kept: list[int], fs: pyarrow.fs.FileSystem | None
) -> None:
    write(tmp_path, written)
    drop_results_after(str(tmp_path), last, fs)
    assert read(tmp_path) == (kept, kept)


@pytest.mark.parametrize("scale", [1, 160])  # steps are iterations, or env steps
def test_events_are_truncated_with_the_results(tmp_path: Path, scale: int) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for iteration in range(1, 7):
            writer.add_scalar("return", float(iteration), iteration * scale)
    (events,) = tmp_path.glob("events*")
    whole = events.read_bytes()
    events.write_bytes(whole[:-7])  # killed while writing
    results = [{"training_iteration": i, "num_env_steps_sampled_lifetime": 160 * i} for i in range(1, 7)]
    (tmp_path / "result.json").write_text("".join(json.dumps(result) + "\n" for result in results))
    drop_events_after(str(tmp_path), 4)
    kept = events.read_bytes()
    assert whole.startswith(kept)
    with SummaryWriter(str(tmp_path / "again")) as writer:
        for iteration in range(1, 5):
            writer.add_scalar("return", float(iteration), iteration * scale)
    (expected,) = (tmp_path / "again").glob("events*")
    assert len(kept) == len(expected.read_bytes())


def test_a_folder_without_results_is_unchanged(tmp_path: Path) -> None:
    drop_results_after(str(tmp_path / "nowhere"), 3)
    drop_results_after(str(tmp_path), 3)
    drop_events_after(str(tmp_path), 3)
    assert not list(tmp_path.iterdir())


def test_a_recovered_trial_repeats_iterations_in_the_same_columns(tmp_path: Path) -> None:
    class Trial:
        local_path, checkpoint, init_local_path = str(tmp_path), "some", print
        latest_checkpoint_result = SimpleNamespace(metrics={"training_iteration": 1})
        storage = SimpleNamespace(
            storage_filesystem=pyarrow.fs.LocalFileSystem(), trial_fs_path=str(tmp_path / "storage")
        )

    trial, files = Trial(), ResultFiles()
    (tmp_path / "storage").mkdir()
    for iteration in (1, 2):
        files.log_trial_result(iteration, trial, {"training_iteration": iteration, "env_runners": {"x": 1}})
    (tmp_path / "storage" / "progress.csv").write_text("as it was synchronised an hour ago")
    files.on_trial_recover(2, [trial], trial)
    files.log_trial_result(2, trial, {"win": 0, "training_iteration": 2, "env_runners": {"x": 5}})
    assert (tmp_path / "storage" / "progress.csv").read_text().splitlines() == [
        "training_iteration,env_runners/x",
        "1,1",
    ]
    with (tmp_path / "progress.csv").open() as file:
        rows = [(row["training_iteration"], row["env_runners/x"]) for row in csv.DictReader(file)]
    assert rows == [("1", "1"), ("2", "5")]
