"""The examples run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SHORT = {
    "own_environment.py": ["--iterations", "1"],
    "serve_policy.py": ["--port", "8765"],
    "optuna_sweep.py": ["--trials", "2", "--steps", "640"],
}


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SHORT)


@pytest.mark.parametrize("name", SHORT)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, EXAMPLES / name, *SHORT[name]],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_AIR_NEW_OUTPUT": "0"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
