"""One run at a time, and one experiment, writes into a folder, whose name is a name."""

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
    lock_folder,
    to_valid_name,
    unused_name,
)


@pytest.mark.parametrize("name", ["mam-smax-3s5z", "run 2", "a.b_c=1,d", "été", "x" * 120, "MAT+lbf"])
def test_names(name: str) -> None:
    check_name(name, "x")


@pytest.mark.parametrize(
    "name",
    ["", " ", " a", "..", ".", "../up", "/tmp/x", "a/b", "a\\b", "a\0b", "a\nb", "a:b", "a*", "~", "x" * 121, "é" * 61]
    + ["\udc80", 7, None, True],
)
def test_what_is_a_path_or_no_text_is_not_a_name(name: object) -> None:
    with pytest.raises(ExperimentError, match="^x: .*name") as refused:
        check_name(name, "x")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


@pytest.mark.parametrize("text", ["MAT-lbf/8x8", "PPO-my_module:Env-v0", "MAT-" + "x" * 300, "MAT-../a"])
def test_any_text_makes_a_name(text: str) -> None:
    check_name(to_valid_name(text), "x")


def test_a_folder_with_results_is_refused_unless_they_are_continued(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "mine"
    check_folder(folder, "mine", resume=False)
    assert not folder.parent.exists()
    with lock_folder(folder):
        (folder / "tuner.pkl").touch()
    with pytest.raises(ExperimentError, match="holds results already: continue that run with --resume, choose another"):
        check_folder(folder, "mine", resume=False)
    check_folder(folder, "mine", resume=True)
    assert unused_name(str(folder.parent), "mine") == "mine-2"


def test_a_second_run_in_a_folder_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        with pytest.raises(ExperimentError, match=f"process {os.getpid()} on .* is writing its results there"):
            check_folder(tmp_path, "mine", resume=True)
        with pytest.raises(ExperimentError, match="is writing its results there"), lock_folder(tmp_path):
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
    check_folder(tmp_path, "mine", resume=False)  # a lock alone is no result
    with lock_folder(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "mine", tmp_path / "file", Path("/proc/none/mine"), tmp_path / ("x" * 300)):
        with pytest.raises(ExperimentError, match=r"results cannot be written there \(.*\); give another folder with"):
            check_folder(folder, "mine", resume=True)
