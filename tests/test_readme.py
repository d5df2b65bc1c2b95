"""The commands and programs of the README run."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from rllib_seqmarl.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(command: str) -> None:
    """Run a shell command; `make` targets are only looked up, since they run this very test."""
    program, *arguments = shlex.split(command)
    if program == "rllib":
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, f"{command}\n{result.output[-4000:]}"
    else:
        assert program == "make", f"no test runs {program!r}"
        subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)


def test_every_command_and_program_runs_in_order(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder, but in one process, which imports Ray and starts it once."""
    monkeypatch.chdir(tmp_path)
    for block in blocks("yaml"):
        name = re.match(r"# (\S+\.yaml)\n", block)
        assert name, "a YAML block begins with its file's name"
        (tmp_path / name[1]).write_text(block)
    for language, block in re.findall(r"^```(bash|python)\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
        else:
            for command in block.strip().splitlines():
                run(command)
    assert (tmp_path / "team.gif").stat().st_size > 0
    assert (tmp_path / "team.safetensors").stat().st_size > 0


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
