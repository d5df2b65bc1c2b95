"""The files of a training run: finding checkpoints and reading learning curves in results' folders."""

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
        steps: Env steps, where a return was reported.
        returns: The team's mean episode return there.
    """

    steps: list[float]
    returns: list[float]


def read_curve(trial: Path) -> Curve:
    """The learning curve in a trial's `result.json`; empty where no episode ended.

    Raises:
        ExperimentError: There is no such file.
    """
    steps, returns = [], []
    try:
        lines = (trial / "result.json").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ExperimentError(f"{trial}: this is not a trial's folder: {error}") from None
    for line in lines:
        try:
            result = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that was being written when training was killed
        step, team_return = metric(result, ENV_STEPS), metric(result, TEAM_RETURN)
        if step is not None and team_return is not None:
            steps.append(step)
            returns.append(team_return)
    return Curve(steps, returns)


def newest_checkpoint(trial: Path) -> Path | None:
    """A trial's newest checkpoint; None where it has none."""
    numbered = [(int(match[1]), path) for path in trial.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
    return max(numbered)[1] if numbered else None


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a user means by a path.

    Args:
        path: A checkpoint's folder, a trial's (then its newest), or an experiment's (then that of the trial
            with the best return).

    Raises:
        ExperimentError: There is none.
    """
    if not path.exists():
        raise ExperimentError(f"{path}: there is no such folder. Give a checkpoint's, a trial's or an experiment's.")
    if not path.is_dir():
        raise ExperimentError(f"{path}: a checkpoint is a folder, not a file. Give the folder around it.")
    if not path.name.startswith("checkpoint_"):
        own = newest_checkpoint(path)
        if own is not None:
            return own
        trials = [child for child in path.iterdir() if child.is_dir() and newest_checkpoint(child)]
        if trials:
            found = newest_checkpoint(max(trials, key=_best_return))
            assert found is not None
            return found
        if (path / "tuner.pkl").exists() or (path / "result.json").exists():
            raise ExperimentError(
                f"{path}: no checkpoint was written there yet. They come every 'checkpoint_freq' iterations."
            )
    return path


def _best_return(trial: Path) -> float:
    value = best(read_curve(trial).returns) if (trial / "result.json").exists() else None
    return float("-inf") if value is None else value
