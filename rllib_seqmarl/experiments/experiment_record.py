"""The record of an experiment's settings in its folder, to which a resumed run is compared."""

import json
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

import pyarrow.fs
from ray.tune.search.sample import Domain, Sampler

from rllib_seqmarl.experiments.config_check import network_keys
from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.experiment import Experiment
from rllib_seqmarl.experiments.search_space import distributions
from rllib_seqmarl.experiments.value_kinds import format_value
from rllib_seqmarl.provenance import plain

RECORD = "experiment.json"

# Settings that may differ when a run is resumed; of the config, most keys.
CHANGEABLE = ("stop", "checkpoints", "max_failures", "time_budget_s", "name", "storage_path", "config")


def record(experiment: Experiment) -> dict[str, Any]:
    """Return an experiment as plain data; equal experiments give equal records."""
    return json.loads(json.dumps(plain(experiment, _describe)))


def _describe(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return plain({key: getattr(value, key) for key in value.__dataclass_fields__}, _describe)
    if isinstance(value, Domain | Sampler):
        return plain({type(value).__name__: vars(value)}, _describe)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def write_record(experiment: Experiment, fs: pyarrow.fs.FileSystem, folder: str) -> None:
    """Write an experiment's record into its folder."""
    with fs.open_output_stream(f"{folder}/{RECORD}") as file:
        file.write(json.dumps(record(experiment), indent=2).encode())


def read_record(fs: pyarrow.fs.FileSystem, folder: str) -> dict[str, Any] | None:
    """Read the record in an experiment's folder; None if it is missing or unreadable."""
    try:
        with fs.open_input_stream(f"{folder}/{RECORD}") as file:
            return dict(json.loads(file.readall()))
    except (OSError, ValueError, TypeError):
        return None


def config_changes(old: dict[str, Any], experiment: Experiment) -> dict[str, Any]:
    """Return the config keys that differ from the record, with their new values; `ABSENT` for removed keys.

    Args:
        old: The record of the experiment as it was started.
        experiment: The experiment to resume.

    Raises:
        ExperimentError: Settings differ that cannot change on resuming; gives the reason for each.
    """
    new = record(experiment)
    rejected = [
        f"{key}: {format_value(old.get(key), 60)} -> {format_value(value, 60)}"
        for key, value in new.items()
        if key not in CHANGEABLE and value != old.get(key) and (key, value) != ("restore", None)
    ]
    changes = {}
    for key in {**new["config"], **old["config"]}:  # what the user has written first
        before, after = old["config"].get(key), new["config"].get(key)
        if before == after and (key in old["config"]) == (key in new["config"]):
            continue
        changes[key] = experiment.config.get(key, ABSENT)
        reason = _why_fixed(key, experiment, before)
        if reason:
            rejected.append(f"config.{key} ({reason}): {format_value(before, 60)} -> {format_value(after, 60)}")
    if rejected:
        raise ExperimentError(
            f"{experiment.name}: --resume cannot change {'; '.join(rejected)}. Undo the change, or start an experiment "
            "under another name, with 'restore' or 'initial_policy' to start from a checkpoint."
        )
    return changes


ABSENT = object()
_DOMAINS = {"grid_search", "Float", "Integer", "Categorical"}  # the only key of a recorded distribution


def _why_fixed(key: str, experiment: Experiment, before: Any) -> str | None:
    """Return why a config key cannot change on resuming; None if it can."""
    if key in ("env", "env_config"):
        return "the environment"
    mappings = [part for part in _parts(before) if isinstance(part, dict)]
    tuned = {path[0] for path, _ in distributions(experiment.config)}
    if key in tuned or any(len(part) == 1 and part.keys() <= _DOMAINS for part in mappings):
        return "part of the search space"
    if key in network_keys(experiment.run, experiment.config):
        return "part of the network, whose weights are in the checkpoints"
    return None


def _parts(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        for part in value.values():
            yield from _parts(part)
