"""Distributions in experiment files, such as `{loguniform: [1e-5, 1e-3]}`, and their conversion to Ray Tune's."""

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

from ray import tune
from ray.tune.search.sample import Categorical, Domain, Float, Integer

from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.value_kinds import Where

Path = tuple[Any, ...]

_EXAMPLES = {  # of arguments, by the name of Tune's function
    "uniform": "[0.0, 1.0]",
    "quniform": "[0.0, 1.0, 0.1]",
    "loguniform": "[1e-5, 1e-3]",
    "qloguniform": "[1e-5, 1e-3, 1e-5]",
    "randn": "[0.0, 1.0]",
    "qrandn": "[0.0, 1.0, 0.1]",
    "randint": "[1, 10]",
    "qrandint": "[10, 100, 10]",
    "lograndint": "[1, 10]",
    "qlograndint": "[10, 1000, 10]",
    "choice": "[0.1, 0.2]",
    "grid_search": "[0.1, 0.2]",
}
DISTRIBUTIONS: dict[str, Callable[..., Any]] = {name: getattr(tune, name) for name in _EXAMPLES}


def to_search_space(value: Any, where: Where, path: Path = ()) -> Any:
    """Return plain data with every `{distribution: arguments}`, at any depth, replaced by Tune's distribution.

    Raises:
        ExperimentError: The arguments of a distribution are invalid.
    """
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (name,) = value
        if name in DISTRIBUTIONS:
            return _distribution(name, value[name], where(*path, name))
        if name == "sample_from":
            raise ExperimentError(
                f"{where(*path)}: 'sample_from' needs code, which an experiment file cannot contain. "
                f"Use one of {', '.join(DISTRIBUTIONS)}, or use `tune.Tuner` from Python."
            )
    return {key: to_search_space(entry, where, (*path, key)) for key, entry in value.items()}


def _distribution(name: str, arguments: Any, place: str) -> Any:
    function, example = DISTRIBUTIONS[name], f"{{{name}: {_EXAMPLES[name]}}}"
    if name in ("choice", "grid_search"):
        if not isinstance(arguments, list) or not arguments:
            raise ExperimentError(f"{place}: {name} takes a list of values, such as {example}.")
        return function(arguments)
    signature = inspect.signature(function)
    try:
        given = arguments if isinstance(arguments, dict | list) else [arguments]
        numbers = (signature.bind(**given) if isinstance(given, dict) else signature.bind(*given)).arguments
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers.values()):
            raise TypeError
    except TypeError:
        names = ", ".join(parameter for parameter in signature.parameters if parameter != "base")
        raise ExperimentError(
            f"{place}: {name} takes the numbers [{names}], such as {example}; got {arguments!r}."
        ) from None
    if "lower" in numbers and not numbers["lower"] < numbers["upper"]:
        raise ExperimentError(f"{place}: {name} needs lower < upper; got {arguments!r}.")
    try:
        return function(**numbers)
    except ValueError as error:
        raise ExperimentError(f"{place}: {name}: {error}") from None


def distributions(space: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every distribution in a config with its path; a grid search is the mapping {"grid_search": values}."""
    for key, value in space.items():
        here = (*path, key)
        if isinstance(value, Domain) or (isinstance(value, dict) and set(value) == {"grid_search"}):
            yield here, value
        elif isinstance(value, dict):
            yield from distributions(value, here)


def merge(config: dict[str, Any], addition: dict[str, Any]) -> dict[str, Any]:
    """Return `config` updated by `addition`, merging nested mappings."""
    merged = dict(config)
    for key, value in addition.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict) and set(value) != {"grid_search"}
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def corners(space: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield configs that together contain each value of every choice and both ends of every range.

    The first config has the first value of each distribution; every other config differs from it in one value.
    """
    candidates = {path: _candidates(domain) for path, domain in distributions(space)}
    first = copy.deepcopy(space)
    for path, values in candidates.items():
        _put(first, path, values[0])
    yield first
    for path, values in candidates.items():
        for value in values[1:]:
            corner = copy.deepcopy(first)
            _put(corner, path, value)
            yield corner


def _candidates(domain: Any) -> list[Any]:
    if isinstance(domain, dict):
        return list(domain["grid_search"])
    if isinstance(domain, Categorical):
        return list(domain.categories)
    if isinstance(domain, Float | Integer) and abs(domain.lower) < float("inf") and abs(domain.upper) < float("inf"):
        return [domain.lower, domain.upper - isinstance(domain, Integer)]
    return [domain.sample()]


def _put(config: dict[str, Any], path: Path, value: Any) -> None:
    *parents, last = path
    for key in parents:
        config = config[key]
    config[last] = value
