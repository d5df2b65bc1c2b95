"""Experiments and the parser of their classic mapping `{run, env, stop, config, ...}`."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from ray.tune import CheckpointConfig

from rllib_seqmarl.experiments.config_check import algorithm_class, check_config
from rllib_seqmarl.experiments.errors import ExperimentError, Problems
from rllib_seqmarl.experiments.metrics import CLOCKS, TEAM_RETURN, resolve_metric
from rllib_seqmarl.experiments.mutations import check_mutations
from rllib_seqmarl.experiments.results_folder import check_name, check_storage_path
from rllib_seqmarl.experiments.search import SchedulerChoice, Search, parse_scheduler, parse_search
from rllib_seqmarl.experiments.search_space import distributions, to_search_space
from rllib_seqmarl.experiments.value_kinds import Where, check_mapping, check_numbers, fits, format_value

_KINDS: dict[str, Any] = {
    "run": str,
    "env": str,
    "config": dict,
    "stop": dict,
    "num_samples": int,
    "max_concurrent_trials": int,
    "time_budget_s": float,
    "max_failures": int,
    "search": str | dict,
    "scheduler": str | dict,
    "storage_path": str,
    "local_dir": str,
    "checkpoint_config": dict,
    "checkpoint_freq": int,
    "checkpoint_at_end": bool,
    "checkpoint_score_attr": str,
    "keep_checkpoints_num": int | None,
    "restore": str,
}

_CHECKPOINT_KINDS: dict[str, Any] = {
    "checkpoint_frequency": int,
    "checkpoint_at_end": bool,
    "num_to_keep": int | None,
    "checkpoint_score_attribute": str | None,
    "checkpoint_score_order": str,
}

# Keys that are fields of an experiment as they are.
_RUN_KEYS = ("num_samples", "max_concurrent_trials", "time_budget_s", "max_failures", "restore")

_CLASSIC_CHECKPOINT_KEYS = {
    "checkpoint_freq": "checkpoint_frequency",
    "checkpoint_at_end": "checkpoint_at_end",
    "keep_checkpoints_num": "num_to_keep",
}


def default_checkpoints() -> CheckpointConfig:
    """Return the defaults: a checkpoint every 20 iterations and at the end, of which the last two are kept."""
    return CheckpointConfig(checkpoint_frequency=20, checkpoint_at_end=True, num_to_keep=2)


# Experiment keys of earlier Ray versions, and their replacements.
_RETIRED_KEYS = {
    "resources_per_trial": "RLlib computes a trial's resources from its config: set 'num_env_runners', "
    "'num_cpus_per_env_runner', 'num_learners' and 'num_gpus_per_learner' there",
    "trial_resources": "RLlib computes a trial's resources from its config",
    "upload_dir": "write 'storage_path', which may be s3://..., instead",
    "sync_config": "write 'storage_path', which may be s3://..., instead",
    "export_formats": "leave it out: every checkpoint holds the policy as safetensors and JSON",
    "repeat": "write 'num_samples' instead",
    "search_alg": "write 'search: {algorithm: optuna}' instead",
}


@dataclass(frozen=True)
class Experiment:
    """A checked experiment: an algorithm, its config, and how to run it.

    Attributes:
        name: The name of the experiment and of its folder under `storage_path`.
        run: The algorithm's name.
        config: The algorithm's config, including "env"; distributions are Tune's.
        stop: Metric -> value at which a trial stops.
        num_samples: How many times the config is sampled or the grid is repeated.
        max_concurrent_trials: The maximum number of trials running at once; None for as many as the CPUs allow.
        time_budget_s: Seconds after which the whole experiment stops.
        max_failures: How many times a failed trial is restarted from its last checkpoint.
        storage_path: The folder of the results; None for Ray's default, ~/ray_results.
        checkpoints: When a trial writes checkpoints, and which of them it keeps.
        search: The search algorithm and space; None for Tune's grid and random search.
        scheduler: The scheduler that stops trials early; None to run all trials to their end.
        restore: A checkpoint folder that every trial starts from.
    """

    name: str
    run: str
    config: dict[str, Any]
    stop: dict[str, float] = field(default_factory=dict)
    num_samples: int = 1
    max_concurrent_trials: int | None = None
    time_budget_s: float | None = None
    max_failures: int = 0
    storage_path: str | None = None
    checkpoints: CheckpointConfig = field(default_factory=default_checkpoints)
    search: Search | None = None
    scheduler: SchedulerChoice | None = None
    restore: str | None = None

    @property
    def num_trials(self) -> int | None:
        """The number of trials; None for endless sampling."""
        grids = [domain["grid_search"] for _, domain in distributions(self.config) if isinstance(domain, dict)]
        return None if self.num_samples == -1 else self.num_samples * math.prod(map(len, grids))

    @property
    def metric(self) -> tuple[str, str]:
        """The metric that ranks trials, and "max" or "min"."""
        return (self.search.metric, self.search.mode) if self.search else (TEAM_RETURN, "max")

    @property
    def ranking_metrics(self) -> dict[str, str]:
        """Metric -> the setting, other than `stop`, that needs it in every result."""
        settings = {
            "checkpoint_score_attr": self.checkpoints.checkpoint_score_attribute,
            "scheduler": self.scheduler and self.scheduler.options.get("time_attr"),
            "search": self.search and self.search.metric,
        }
        return {name: setting for setting, name in settings.items() if name}

    @property
    def tuned_keys(self) -> list[str]:
        """The config keys ("a/b" if nested) that differ between trials."""
        return ["/".join(map(str, path)) for path, _ in distributions(self.config)]


def parse_experiment(name: str, spec: Any, where: Where) -> Experiment:
    """Parse and check the mapping of an experiment, which is plain data.

    `where(*path)` returns the source location of a path in the mapping, for messages; `where()` is the experiment's.

    Raises:
        ExperimentError: The experiment is invalid; has a line for each problem.
    """
    problems = Problems()
    problems.of(check_name, name, where())
    if not isinstance(spec, dict):
        problems.add(
            f"{where()}: experiment '{name}' must be a mapping {{run, env, stop, config, ...}}; "
            f"got {format_value(spec)}."
        )
        problems.report()
    retired = [key for key in spec if key in _RETIRED_KEYS]
    for key in retired:
        problems.add(f"{where(key)}: key '{key}' is no longer used; {_RETIRED_KEYS[key]}.")
    problems.of(check_mapping, {key: spec[key] for key in spec if key not in retired}, _KINDS, where)
    if "run" not in spec:
        problems.add(f"{where()}: experiment '{name}' lacks 'run', the algorithm's name, such as 'run: MAT'.")
    # The remaining checks only get known keys with values of the right type.
    spec = {key: value for key, value in spec.items() if key in _KINDS and fits(value, _KINDS[key])}
    problems.of(check_numbers, spec, where)
    problems.of(_check_not_twice, spec, where)
    for key in ("storage_path", "local_dir"):
        if key in spec:
            problems.of(check_storage_path, spec[key], where(key))
    stop = problems.of(_parse_stop, spec.get("stop", {}), where)
    checkpoints = problems.of(parse_checkpoints, spec, where, default_checkpoints())
    scheduler = problems.of(parse_scheduler, spec.get("scheduler"), where)
    search = problems.of(parse_search, spec.get("search"), where)
    config: Any = problems.of(_parse_config, spec, search, where) if "run" in spec else None
    if scheduler is not None and config is not None:
        problems.of(check_mutations, spec["run"], config, scheduler, where)
    problems.report()
    experiment = Experiment(
        name=name,
        run=spec["run"],
        config=config,
        stop=stop,
        storage_path=spec.get("storage_path", spec.get("local_dir")),
        checkpoints=checkpoints,
        search=search,
        scheduler=scheduler,
        **{key: spec[key] for key in _RUN_KEYS if key in spec},
    )
    _check_metrics_are_reported(experiment, spec.get("stop", {}), where)
    return experiment


def _check_not_twice(spec: dict[str, Any], where: Where) -> None:
    """Reject two keys for the same setting, of which one would be ignored."""
    same = {"local_dir": "storage_path", "checkpoint_score_attr": "checkpoint_config.checkpoint_score_attribute"}
    same |= {old: f"checkpoint_config.{new}" for old, new in _CLASSIC_CHECKPOINT_KEYS.items()}
    given = {*spec, *(f"checkpoint_config.{key}" for key in spec.get("checkpoint_config", {}))}
    problems = Problems()
    for classic, key in same.items():
        if {classic, key} <= given:
            problems.add(f"{where(classic)}: '{classic}' and '{key}' are the same; remove one.")
    problems.report()


def _parse_config(spec: dict[str, Any], search: Search | None, where: Where) -> dict[str, Any]:
    """Parse and check the algorithm's config; distributions become Tune's."""

    def where_in_config(*path: Any) -> str:
        return where("env") if path == ("env",) and "env" in spec else where("config", *path)

    algorithm = algorithm_class(spec["run"], where)
    config = _with_env(spec, where)
    config = to_search_space(config, where_in_config)
    if search is not None:
        config = search.extend(config, where)
    check_config(algorithm, config, where_in_config)
    return config


def _with_env(spec: dict[str, Any], where: Where) -> dict[str, Any]:
    """Return the config with the experiment's `env` added; an empty `env_config:` is ignored."""
    config = _without_empty_env_config(spec.get("config", {}))
    if isinstance(config.get("evaluation_config"), dict):
        config["evaluation_config"] = _without_empty_env_config(config["evaluation_config"])
    if "env" in spec and config.setdefault("env", spec["env"]) != spec["env"]:
        raise ExperimentError(
            f"{where('config', 'env')}: config.env {format_value(config['env'])} differs from the experiment's env "
            f"{spec['env']!r}; remove one of them."
        )
    if "env" not in config and "input" not in config and "input_" not in config:
        raise ExperimentError(f"{where()}: no environment given; add one, such as 'env: mpe/simple_spread'.")
    return config


def _without_empty_env_config(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if (key, value) != ("env_config", None)}


def _parse_stop(stop: dict[str, Any], where: Where) -> dict[str, float]:
    problems = Problems()
    parsed = [problems.of(_parse_criterion, name, value, where("stop", name)) for name, value in stop.items()]
    problems.report()
    return dict(parsed)


def _parse_criterion(name: str, value: Any, place: str) -> tuple[str, float]:
    metric = resolve_metric(name, place)
    if isinstance(value, dict):
        raise ExperimentError(
            f"{place}: write nested metrics with slashes, as in '{name}/{next(iter(value), '...')}: ...'."
        )
    if not fits(value, float):
        raise ExperimentError(f"{place}: {name} must be a number; got {format_value(value)}.")
    if metric in CLOCKS and value <= 0:
        raise ExperimentError(f"{place}: {name} must be greater than 0; {value} is reached before training starts.")
    if metric.endswith("/win_rate") and not 0 < value <= 1:
        raise ExperimentError(f"{place}: {name} is a fraction from 0 to 1: write 0.9 for 90%; got {value}.")
    return metric, float(value) if abs(value) >= 2**63 else value


def _check_metrics_are_reported(experiment: Experiment, stop: dict[str, Any], where: Where) -> None:
    """Reject evaluation metrics if evaluation is disabled."""
    if experiment.config.get("evaluation_interval"):
        return
    places = {resolve_metric(name, ""): where("stop", name) for name in stop}
    if experiment.search is not None:
        places[experiment.search.metric] = where("search", "metric")
    if experiment.checkpoints.checkpoint_score_attribute is not None:
        places[experiment.checkpoints.checkpoint_score_attribute] = where("checkpoint_score_attr")
    for name, place in places.items():
        if name.startswith("evaluation/"):
            raise ExperimentError(f"{place}: '{name}' needs evaluation; add 'evaluation_interval: 10' to config.")


def parse_checkpoints(spec: dict[str, Any], where: Where, defaults: CheckpointConfig) -> CheckpointConfig:
    """Parse `checkpoint_config` and the classic keys `checkpoint_freq`, `keep_checkpoints_num`, ...

    Missing settings are taken from `defaults`.

    Raises:
        ExperimentError: A key or value is invalid.
    """
    given = dict(spec.get("checkpoint_config", {}))
    check_mapping(given, _CHECKPOINT_KINDS, where, "checkpoint_config")
    check_numbers(given, where, "checkpoint_config")
    if given.get("checkpoint_score_order", "max") not in ("max", "min"):
        raise ExperimentError(
            f"{where('checkpoint_config', 'checkpoint_score_order')}: checkpoint_score_order must be 'max' or 'min'; "
            f"got {given['checkpoint_score_order']!r}."
        )
    classic = {old: spec[old] for old in _CLASSIC_CHECKPOINT_KEYS if old in spec}
    check_numbers(classic, where)
    given |= {_CLASSIC_CHECKPOINT_KEYS[old]: value for old, value in classic.items()}
    if "checkpoint_score_attr" in spec:  # classic: "min-x" for the lowest x
        attribute = spec["checkpoint_score_attr"]
        given["checkpoint_score_order"] = "min" if attribute.startswith("min-") else "max"
        given["checkpoint_score_attribute"] = attribute.removeprefix("min-")
    if given.get("checkpoint_score_attribute"):
        given["checkpoint_score_attribute"] = resolve_metric(
            given["checkpoint_score_attribute"], where("checkpoint_score_attr")
        )
    if "num_to_keep" in given:
        given["num_to_keep"] = given["num_to_keep"] or None  # 0 means all
    return replace(defaults, **given)
