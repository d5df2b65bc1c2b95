"""The `rllib` command in the user's folder, and values of options that Ray never sees."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rllib_seqmarl.cli import main


def test_modules_in_the_current_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mixers_of_a_user.py").write_text("raise ValueError('my own error')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])  # as of the installed script
    config = "{mixer_modules: [mixers_of_a_user]}"
    result = CliRunner().invoke(
        main, ["train", "--run", "MAT", "--env", "coordination/distinct_choice", "--config", config]
    )
    assert "'mixers_of_a_user' cannot be imported: my own error" in result.stderr


@pytest.mark.parametrize("minutes", ["nan", "inf"])
def test_the_duration_of_the_quickstart_is_finite(minutes: str) -> None:
    result = CliRunner().invoke(main, ["quickstart", "--minutes", minutes])
    assert result.exit_code == 2 and "is not a finite number" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["evaluate", ".", "--render", "team.mp4"], ["profile", "x.yaml", "--out", "x.doc"]]
)
def test_pictures_that_cannot_be_written_are_rejected_first(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and "the name of the file must end with" in result.stderr
