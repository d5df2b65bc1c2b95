"""Limits of numeric experiment settings."""

from __future__ import annotations

from typing import Any

from rllib_seqmarl.experiments.errors import Problems
from rllib_seqmarl.experiments.value_kinds import Where, non_finite

# The minimum of each setting, and the meaning of special values.
_LEAST: dict[str, tuple[int, str]] = {
    "num_samples": (1, ", or -1 for endless sampling"),
    "max_concurrent_trials": (1, ""),
    "max_failures": (0, ", or -1 for no limit"),
    "checkpoint_freq": (0, " (0 for none during training)"),
    "checkpoint_frequency": (0, " (0 for none during training)"),
    "keep_checkpoints_num": (0, " (0 for all)"),
    "num_to_keep": (0, " (0 for all)"),
}


def check_numbers(spec: dict[str, Any], where: Where, *path: str) -> None:
    """Reject numbers of an experiment that are not finite or below their minimum.

    Args:
        spec: The experiment's mapping or its `checkpoint_config`.
        where: Returns the source location of a path.
        path: The path of `spec`.

    Raises:
        ExperimentError: Some numbers are invalid; has a line for each.
    """
    problems = Problems()
    for place, number in non_finite({key: value for key, value in spec.items() if key != "config"}):
        problems.add(f"{where(*path, *place)}: {place[-1]} must be a finite number; got {number}.")
    for key, (least, special) in _LEAST.items():
        value = spec.get(key)
        if isinstance(value, int) and value < least and not ("-1" in special and value == -1):
            problems.add(f"{where(*path, key)}: {key} must be at least {least}{special}; got {value}.")
    budget = spec.get("time_budget_s")
    if budget is not None and budget <= 0:
        problems.add(f"{where(*path, 'time_budget_s')}: time_budget_s must be greater than 0; got {budget}.")
    problems.report()
