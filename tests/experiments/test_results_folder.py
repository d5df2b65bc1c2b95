"""Results folders: valid names, and one run and one experiment at a time."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from rllib_seqmarl.experiments import ExperimentError
from rllib_seqmarl.experiments.results_folder import (
    LOCK,
    check_folder,
    check_name,
    check_output_file,
    lock_folder,
    to_valid_name,
    unused_name,
)


@pytest.mark.parametrize("name", ["mam-smax-3s5z", "run 2", "a.b_c=1,d", "été", "x" * 120, "MAT+lbf"])
def test_valid_names(name: str) -> None:
    check_name(name, "x")


@pytest.mark.parametrize(
    "name",
    ["", " ", " a", "..", ".", "../up", "/tmp/x", "a/b", "a\\b", "a\0b", "a\nb", "a:b", "a*", "~", "x" * 121, "é" * 61]
    + ["\udc80", 7, None, True],
)
def test_paths_and_non_text_are_not_names(name: object) -> None:
    with pytest.raises(ExperimentError, match="^x: .*name") as raised:
        check_name(name, "x")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 200


@pytest.mark.parametrize("text", ["MAT-lbf/8x8", "PPO-my_module:Env-v0", "MAT-" + "x" * 300, "MAT-../a"])
def test_any_text_becomes_a_valid_name(text: str) -> None:
    check_name(to_valid_name(text), "x")


def test_a_folder_with_results_is_rejected_unless_resuming(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "mine"
    check_folder(folder, "mine", resume=False)
    assert not folder.parent.exists()
    with lock_folder(folder):
        (folder / "tuner.pkl").touch()
    with pytest.raises(ExperimentError, match="already contains results: continue that run with --resume, choose"):
        check_folder(folder, "mine", resume=False)
    check_folder(folder, "mine", resume=True)
    assert unused_name(str(folder.parent), "mine") == "mine-2"


def test_a_second_run_in_a_folder_is_rejected_while_the_first_runs(tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        with pytest.raises(ExperimentError, match=f"process {os.getpid()} on .* is writing results there"):
            check_folder(tmp_path, "mine", resume=True)
        with pytest.raises(ExperimentError, match="is writing results there"), lock_folder(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with lock_folder(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert json.loads((tmp_path / LOCK).read_text())["pid"] != os.getpid()
    check_folder(tmp_path, "mine", resume=False)  # the lock does not count as a result
    with lock_folder(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_folder_that_is_not_writable_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "mine", tmp_path / "file", Path("/proc/none/mine"), tmp_path / ("x" * 300)):
        with pytest.raises(ExperimentError, match=r"results cannot be written there \(.*\); choose another folder"):
            check_folder(folder, "mine", resume=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("team.mp4", "^--render: the name of the file must end with .gif; got '.*team.mp4'"),
        ("team", "must end with .gif"),
        (".", "must end with .gif"),
        ("folder.gif", r"folder.gif cannot be written \(Is a directory\)"),
        ("file.txt/team.gif", r"cannot be written \(Not a directory\)"),
    ],
)
def test_output_files_are_checked_before_the_work(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder.gif").mkdir()
    (tmp_path / "file.txt").touch()
    with pytest.raises(ExperimentError, match=message):
        check_output_file(tmp_path / name, "--render", (".gif",))
    for good in ("team.gif", "TEAM.GIF", "new/folder/team.gif"):
        check_output_file(tmp_path / good, "--render", (".gif",))
    assert not (tmp_path / "new").exists()
