"""The examples run without errors."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SHORT = {
    "own_environment.py": ["--iterations", "1"],
    "optuna_sweep.py": ["--trials", "2", "--steps", "640"],
}


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SHORT, "serve_policy.py"}


def test_a_served_team_answers_json(tmp_path: Path, ray_cluster: None) -> None:
    """Test the deployment's JSON handling without Ray Serve, which has many dependencies."""
    sys.path.insert(0, str(EXAMPLES))
    from serve_policy import Team, train

    train(str(tmp_path))
    team = Team(str(tmp_path))
    observations = {f"agent_{i}": np.eye(3)[i].tolist() for i in range(3)}
    answer = json.loads(json.dumps(team.act(json.loads(json.dumps(observations)))))
    assert answer.keys() == observations.keys() and all(isinstance(action, int) for action in answer.values())
    with pytest.raises(ValueError, match="the team has no agent 'stranger'"):
        team.act({"stranger": [0.0]})
    with pytest.raises(ValueError, match="send an object"):
        team.act([1, 2])


@pytest.mark.parametrize("name", SHORT)
def test_an_example_runs(name: str, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *SHORT[name]])
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
