"""Registration of the package's algorithms and environments with Ray Tune, done when this module is imported."""

from functools import partial
from typing import Any

from ray._private import worker as ray_worker
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.tune.registry import register_env, register_trainable

from rllib_seqmarl import algorithms
from rllib_seqmarl.algorithm_names import ALGORITHM_NAMES
from rllib_seqmarl.envs.catalog import CATALOG, make_env

ALGORITHMS: dict[str, type[Algorithm]] = {name: getattr(algorithms, name) for name in ALGORITHM_NAMES}


def _make_multi_agent(name: str, env_config: dict[str, Any]) -> MultiAgentEnv:
    """Make one of our environments as a `MultiAgentEnv`, which RLlib's own algorithms require."""
    env = make_env(name, env_config)
    return env if isinstance(env, MultiAgentEnv) else ParallelPettingZooEnv(env)


def register() -> None:
    """Register every algorithm and environment with Ray Tune under its name."""
    for name, algorithm in ALGORITHMS.items():
        register_trainable(name, algorithm, warn=False)
    for name in CATALOG:
        register_env(name, partial(_make_multi_agent, name))


register()
# Tune stores names in Ray, so `ray.shutdown` deletes them. A notebook may start Ray again.
ray_worker._post_init_hooks.append(register)
