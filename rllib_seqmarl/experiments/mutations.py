"""Checks of the options that population-based training changes in running trials."""

from functools import partial
from typing import Any

from ray.tune.registry import get_trainable_cls
from ray.tune.search.sample import Float, Integer

from rllib_seqmarl.experiments.config_check import check_config, check_names, network_keys
from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.search import SchedulerChoice
from rllib_seqmarl.experiments.search_space import merge
from rllib_seqmarl.experiments.value_kinds import Where


def check_mutations(run: str, config: dict[str, Any], scheduler: SchedulerChoice, where: Where) -> None:
    """Check that every value that the scheduler may give to an option is valid.

    Args:
        run: The algorithm's name.
        config: Its checked config.
        scheduler: The scheduler.
        where: Returns the source location of a path in the experiment.

    Raises:
        ExperimentError: An option is unknown, cannot change in a running trial, or may get an invalid value.
    """
    mutations = scheduler.options.get("hyperparam_mutations")
    if not mutations:  # only population-based training has them
        return
    where_in_mutations = partial(where, "scheduler", "hyperparam_mutations")
    algorithm = get_trainable_cls(run)
    check_names(algorithm, mutations, where_in_mutations, whole=config)
    for key in mutations:
        if key in network_keys(run, config):
            raise ExperimentError(
                f"{where_in_mutations(key)}: scheduler '{scheduler.name}' cannot change {key}, which is part of the "
                "network: trials continue from each other's weights. Use 'search' or grid_search instead."
            )
    for low, high in ((1.0, 1.0), _factors(scheduler)):
        reachable = {key: _reachable(values, low, high) for key, values in mutations.items()}
        try:
            check_config(algorithm, merge(config, reachable), where_in_mutations)
        except ExperimentError as error:
            if (low, high) == (1.0, 1.0):
                raise
            raise ExperimentError(
                f"{error} Scheduler '{scheduler.name}' multiplies values by {low:g} and {high:g}; replace the "
                "distribution by a list of values, or set resample_probability to 1."
            ) from None


def _factors(scheduler: SchedulerChoice) -> tuple[float, float]:
    """Return the smallest and largest number by which the scheduler multiplies a value."""
    built: Any = scheduler.build()
    if built._resample_probability >= 1:
        return 1.0, 1.0
    return min(built._perturbation_factors), max(built._perturbation_factors)


def _reachable(values: Any, low: float, high: float) -> Any:
    """Return the values of an option, and of its nested options, as grid searches over the extreme ones."""
    if isinstance(values, Float | Integer):
        ends = values.lower, values.upper - isinstance(values, Integer)
        if all(abs(end) < float("inf") for end in ends):
            scaled = sorted({end * factor for end in ends for factor in (low, high)})
            return {"grid_search": [int(end) if isinstance(values, Integer) else end for end in scaled]}
        return values
    if isinstance(values, list | tuple):
        return {"grid_search": list(values)}
    if isinstance(values, dict):
        return {key: _reachable(entry, low, high) for key, entry in values.items()}
    return values
