"""Paths of the common metrics in a training result, and their short names."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.suggestions import did_you_mean

TEAM_RETURN = "env_runners/episode_return_mean"
WIN_RATE = "env_runners/win_rate"
EPISODE_LENGTH = "env_runners/episode_len_mean"
ENV_STEPS = "num_env_steps_sampled_lifetime"
ITERATION = "training_iteration"
SECONDS = "time_total_s"

# Metrics that only grow, so that the time to reach a target can be estimated.
CLOCKS = (ENV_STEPS, ITERATION, SECONDS)

SHORT_NAMES = {
    "episode_return_mean": TEAM_RETURN,
    "episode_return_max": "env_runners/episode_return_max",
    "episode_return_min": "env_runners/episode_return_min",
    "episode_len_mean": EPISODE_LENGTH,
    "win_rate": WIN_RATE,
    "env_steps": ENV_STEPS,
    "evaluation/episode_return_mean": "evaluation/env_runners/episode_return_mean",
}

OLD_NAMES = {
    "episode_reward_mean": "episode_return_mean",
    "episode_reward_max": "episode_return_max",
    "episode_reward_min": "episode_return_min",
    "sampler_results/episode_reward_mean": "episode_return_mean",
    "env_runners/episode_reward_mean": TEAM_RETURN,
    "evaluation/episode_reward_mean": "evaluation/episode_return_mean",
    "timesteps_total": "env_steps",
    "num_env_steps_sampled": "env_steps",
    "num_agent_steps_sampled": "env_steps",
    "num_env_steps_trained": "env_steps",
    "agent_timesteps_total": "env_steps",
    "episodes_total": "env_runners/num_episodes_lifetime",
}

_BARE_NAMES = {*SHORT_NAMES, *CLOCKS, "time_this_iter_s", "timestamp", "done"}


def resolve_metric(name: str, where: str) -> str:
    """Return the path of a metric in a result for a user's name of it; `where` is its source location.

    Raises:
        ExperimentError: The name is from the old API stack, or resembles the name of a known metric.
    """
    if name in SHORT_NAMES:
        return SHORT_NAMES[name]
    if name in OLD_NAMES:
        raise ExperimentError(
            f"{where}: metric '{name}' is not reported by RLlib's new API stack; write '{OLD_NAMES[name]}' instead."
        )
    suggestion = did_you_mean(name, _BARE_NAMES)
    if "/" not in name and name not in _BARE_NAMES and suggestion:
        raise ExperimentError(f"{where}: unknown metric '{name}'.{suggestion}")
    return name


def lookup(result: Mapping[str, Any], name: str) -> Any:
    """Return the value at `name` ("a/b/c") in a nested or flat mapping; None if there is none."""
    if name in result:
        return result[name]
    value: Any = result
    for key in name.split("/"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def metric(result: Mapping[str, Any] | None, name: str) -> float | None:
    """Return the value at `name` ("a/b/c") in a nested or flat result; None if it is not a finite number."""
    try:
        number = float(lookup(result or {}, name))
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def best(values: Iterable[float | None], mode: str = "max") -> float | None:
    """Return the largest (mode "max") or smallest ("min") of the values that are not None; None if there are none."""
    present = [value for value in values if value is not None]
    return (max if mode == "max" else min)(present) if present else None
