"""The `search:` and `scheduler:` blocks of an experiment."""

import copy
import importlib.util
import inspect
from dataclasses import dataclass, field, replace
from typing import Any, get_type_hints

from ray.tune.schedulers import (
    ASHAScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch

from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.metrics import TEAM_RETURN, resolve_metric
from rllib_seqmarl.experiments.search_space import distributions, merge, to_search_space
from rllib_seqmarl.experiments.value_kinds import Where, check_mapping

SEARCH_ALGORITHMS = ("random", "optuna")
SCHEDULERS: dict[str, type[TrialScheduler]] = {
    "asha": ASHAScheduler,
    "hyperband": HyperBandScheduler,
    "median": MedianStoppingRule,
    "pbt": PopulationBasedTraining,
}


@dataclass(frozen=True)
class Search:
    """A `search:` block.

    Attributes:
        algorithm: "random", or "optuna" for a Bayesian search (tree-structured Parzen estimators).
        metric: The metric to optimise.
        mode: "max" or "min".
        space: Config keys -> distributions, added to the experiment's config.
        max_concurrent: The maximum number of concurrent trials; a Bayesian search learns from finished ones.
        seed: The seed of the search.
    """

    algorithm: str = "optuna"
    metric: str = TEAM_RETURN
    mode: str = "max"
    space: dict[str, Any] = field(default_factory=dict)
    max_concurrent: int | None = None
    seed: int | None = None

    def extend(self, config: dict[str, Any], where: Where) -> dict[str, Any]:
        """Return the config with the search space added; raises an ExperimentError if it has no distributions."""
        config = merge(config, self.space)
        found = [domain for _, domain in distributions(config)]
        if not found:
            raise ExperimentError(
                f"{where('search')}: the search space is empty; add 'space: {{lr: {{loguniform: [1e-5, 1e-3]}}}}'."
            )
        if self.algorithm == "optuna":
            if importlib.util.find_spec("optuna") is None:
                raise ExperimentError(f'{where("search")}: Optuna is not installed; run `pip install -e ".[sweep]"`.')
            try:
                OptunaSearch.convert_search_space(config)
            except ValueError as error:
                grid = any(isinstance(domain, dict) for domain in found)
                remedy = "Use choice instead of grid_search." if grid else "Use uniform or loguniform instead."
                raise ExperimentError(f"{where('search')}: {error} {remedy}") from None
        return config

    def build(self) -> Searcher | SearchAlgorithm:
        """Create Tune's search algorithm."""
        if self.algorithm == "optuna":
            import optuna

            optuna.logging.set_verbosity(optuna.logging.WARNING)
            return PatientOptunaSearch(metric=self.metric, mode=self.mode, seed=self.seed)
        return BasicVariantGenerator(random_state=self.seed)


class PatientOptunaSearch(OptunaSearch):
    """Tune's `OptunaSearch`, except that results without the metric are ignored instead of ending the sweep.

    The first results of a run may precede the end of the first episode.
    """

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if self.metric in result:
            super().on_trial_result(trial_id, result)


@dataclass(frozen=True)
class SchedulerChoice:
    """A `scheduler:` block: a name in `SCHEDULERS` and the keyword arguments of Tune's class."""

    name: str
    options: dict[str, Any]

    def build(self) -> TrialScheduler:
        """Create Tune's scheduler."""
        return SCHEDULERS[self.name](**copy.deepcopy(self.options))


def parse_search(block: Any, where: Where) -> Search | None:
    """Parse a `search:` block; a plain name is short for `{algorithm: name}`.

    Raises:
        ExperimentError: A key, algorithm or mode is unknown, or a value has the wrong type.
    """
    if block is None:
        return None
    given = {"algorithm": block} if isinstance(block, str) else dict(block)
    check_mapping(given, get_type_hints(Search), where, "search")
    search = Search(**given)
    if search.algorithm not in SEARCH_ALGORITHMS:
        raise ExperimentError(
            f"{where('search', 'algorithm')}: unknown search algorithm '{search.algorithm}'; "
            f"choose from {', '.join(SEARCH_ALGORITHMS)}."
        )
    if search.mode not in ("max", "min"):
        raise ExperimentError(f"{where('search', 'mode')}: mode must be 'max' or 'min'; got {search.mode!r}.")
    if search.max_concurrent is not None and search.max_concurrent < 1:
        raise ExperimentError(
            f"{where('search', 'max_concurrent')}: max_concurrent must be at least 1; got {search.max_concurrent}."
        )
    if not 0 <= (search.seed or 0) < 2**32:
        raise ExperimentError(f"{where('search', 'seed')}: seed must be from 0 to 2**32 - 1; got {search.seed}.")
    return replace(
        search,
        metric=resolve_metric(search.metric, where("search", "metric")),
        space=to_search_space(search.space, lambda *path: where("search", "space", *path)),
    )


def parse_scheduler(block: Any, where: Where) -> SchedulerChoice | None:
    """Parse a `scheduler:` block: a name, or `{name: asha, grace_period: 10, ...}` with Tune's options.

    Raises:
        ExperimentError: The name or an option is unknown, or the options are invalid.
    """
    if block is None:
        return None
    options = {"name": block} if isinstance(block, str) else dict(block)
    name = str(options.pop("name", "")).lower()
    if name == "fifo":
        return None
    if name not in SCHEDULERS:
        raise ExperimentError(
            f"{where('scheduler', 'name')}: unknown scheduler '{name}'; choose from fifo, {', '.join(SCHEDULERS)}."
        )
    known = set(inspect.signature(SCHEDULERS[name]).parameters) - {"metric", "mode"}
    check_mapping(options, dict.fromkeys(known, Any) | {"time_attr": str}, where, "scheduler")
    if "time_attr" in options:
        options["time_attr"] = resolve_metric(options["time_attr"], where("scheduler", "time_attr"))
    if name == "pbt" and not options.get("hyperparam_mutations"):
        raise ExperimentError(
            f"{where('scheduler')}: scheduler 'pbt' needs options to mutate; write 'scheduler: {{name: pbt, "
            "hyperparam_mutations: {lr: {loguniform: [1e-5, 1e-3]}}}'."
        )
    choice = SchedulerChoice(name, to_search_space(options, lambda *path: where("scheduler", *path)))
    try:
        choice.build()
    except Exception as error:  # Tune's schedulers reject options by assertions and type errors
        reason = str(error) or "its options are inconsistent"
        raise ExperimentError(f"{where('scheduler')}: scheduler '{name}': {' '.join(reason.split())}") from None
    return choice
