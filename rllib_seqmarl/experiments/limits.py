"""Limits of the numbers in an experiment."""

from __future__ import annotations

from typing import Any

from rllib_seqmarl.experiments.errors import Problems
from rllib_seqmarl.experiments.value_kinds import Where, non_finite

# The least that a number may be, and what the least stands for where it is special.
_LEAST: dict[str, tuple[int, str]] = {
    "num_samples": (1, ", or -1 for sampling without end"),
    "max_concurrent_trials": (1, ""),
    "max_failures": (0, ", or -1 for no limit"),
    "checkpoint_freq": (0, " (0 for none on the way)"),
    "checkpoint_frequency": (0, " (0 for none on the way)"),
    "keep_checkpoints_num": (0, " (0 for all)"),
    "num_to_keep": (0, " (0 for all)"),
}


def check_numbers(spec: dict[str, Any], where: Where, *path: str) -> None:
    """Refuses numbers of an experiment that are not finite, or less than what they count can be.

    Args:
        spec: The experiment's mapping, or its `checkpoint_config`.
        where: Tells where a path was written.
        path: Where `spec` stands.

    Raises:
        ExperimentError: With a line for each.
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
        problems.add(f"{where(*path, 'time_budget_s')}: time_budget_s must be more than 0; got {budget}.")
    problems.report()
