"""Finding checkpoints and reading learning curves in results folders."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.metrics import ENV_STEPS, TEAM_RETURN, best, metric

_CHECKPOINT = re.compile(r"checkpoint_(\d+)")


@dataclass(frozen=True)
class Curve:
    """The learning curve of a trial.

    Attributes:
        steps: Env steps at which a return was reported.
        returns: The team's mean episode returns at these steps.
    """

    steps: list[float]
    returns: list[float]


def read_curve(trial: Path) -> Curve:
    """Read the learning curve from a trial's `result.json`; empty if no episode ended.

    Raises:
        ExperimentError: The file does not exist.
    """
    steps, returns = [], []
    try:
        lines = (trial / "result.json").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ExperimentError(f"{trial}: not a trial folder: {error}") from None
    for line in lines:
        try:
            result = json.loads(line)
        except json.JSONDecodeError:
            continue  # an incomplete line, being written when training was killed
        step, team_return = metric(result, ENV_STEPS), metric(result, TEAM_RETURN)
        if step is not None and team_return is not None:
            steps.append(step)
            returns.append(team_return)
    return Curve(steps, returns)


def newest_checkpoint(trial: Path) -> Path | None:
    """Return a trial's newest checkpoint; None if it has none."""
    numbered = [(int(match[1]), path) for path in trial.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
    return max(numbered)[1] if numbered else None


def find_checkpoint(path: Path) -> Path:
    """Find the checkpoint that a user's path refers to.

    Args:
        path: The folder of a checkpoint, of a trial (selects its newest checkpoint) or of an experiment (selects the
            newest checkpoint of the trial with the best return).

    Raises:
        ExperimentError: There is no checkpoint.
    """
    path = path.expanduser()
    if not path.exists():
        raise ExperimentError(f"{path}: no such folder. Pass the folder of a checkpoint, a trial or an experiment.")
    if not path.is_dir():
        raise ExperimentError(f"{path}: a checkpoint is a folder, not a file. Pass the folder that contains it.")
    if not path.name.startswith("checkpoint_"):
        own = newest_checkpoint(path)
        if own is not None:
            return own
        trials = [child for child in path.iterdir() if child.is_dir() and newest_checkpoint(child)]
        if trials:
            newest = newest_checkpoint(max(trials, key=_best_return))
            assert newest is not None
            return newest
        if (path / "tuner.pkl").exists() or (path / "result.json").exists():
            raise ExperimentError(
                f"{path}: no checkpoint has been written yet. One is written every 'checkpoint_freq' iterations."
            )
    return path


def _best_return(trial: Path) -> float:
    value = best(read_curve(trial).returns) if (trial / "result.json").exists() else None
    return float("-inf") if value is None else value
