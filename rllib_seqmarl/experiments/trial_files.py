"""Finding checkpoints and reading learning curves in results folders."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.metrics import ENV_STEPS, TEAM_RETURN, best, metric


@dataclass(frozen=True)
class Curve:
    """The learning curve of a trial: env steps, and the team's mean episode returns reported at them."""

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


def checkpoint_number(path: str | Path) -> int:
    """Return the number in the name of a checkpoint's folder; -1 for any other path."""
    match = re.fullmatch(r"checkpoint_(\d+)", Path(path).name)
    return int(match[1]) if match else -1


def newest_checkpoint(trial: Path) -> Path | None:
    """Return a trial's newest checkpoint; None if it has none."""
    newest = max(trial.iterdir(), key=checkpoint_number, default=Path())
    return newest if checkpoint_number(newest) >= 0 else None


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
    if path.name.startswith("checkpoint_"):
        return path
    with_checkpoints = [folder for folder in path.iterdir() if folder.is_dir() and newest_checkpoint(folder)]
    trial = max(with_checkpoints, key=_best_return, default=path)
    if (newest := newest_checkpoint(path) or newest_checkpoint(trial)) is not None:
        return newest
    if (path / "tuner.pkl").exists() or (path / "result.json").exists():
        raise ExperimentError(
            f"{path}: no checkpoint has been written yet. One is written every 'checkpoint_freq' iterations."
        )
    return path


def _best_return(trial: Path) -> float:
    value = best(read_curve(trial).returns) if (trial / "result.json").exists() else None
    return float("-inf") if value is None else value
