"""All commands and programs in the README run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(900)
def test_every_command_and_program_runs_in_order(tmp_path: Path) -> None:
    """Run in an empty folder; `make` targets are only checked with --dry-run, since they run this test."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    for block in blocks("yaml"):
        name = re.match(r"# (\S+\.yaml)\n", block)
        assert name, "a YAML block starts with its file name"
        (tmp_path / name[1]).write_text(block)
    for language, block in re.findall(r"^```(bash|python)\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        commands = [[sys.executable, "-c", block]] if language == "python" else block.strip().splitlines()
        for command in commands:
            is_make = isinstance(command, str) and command.startswith("make ")
            run = subprocess.run(
                command.replace("make ", "make --dry-run ") if is_make else command,
                shell=isinstance(command, str),
                cwd=ROOT if is_make else tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert run.returncode == 0, f"{command}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
    assert (tmp_path / "team.gif").stat().st_size > 0
    assert (tmp_path / "team.safetensors").stat().st_size > 0


def test_links_are_valid() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
