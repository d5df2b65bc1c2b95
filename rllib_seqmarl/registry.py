"""The tables of what this package adds to RLlib, and their registration with Ray Tune."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.tune.registry import register_env, register_trainable

from rllib_seqmarl.algorithms import MAM, MARWKV, MAT
from rllib_seqmarl.envs.catalog import CATALOG, make_env

ALGORITHMS: dict[str, type[Algorithm]] = {"MAT": MAT, "MAM": MAM, "MARWKV": MARWKV}


class _RLlibCreator:
    """Makes one of our environments as RLlib's own algorithms take it: as a `MultiAgentEnv`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, env_config: dict[str, Any]) -> MultiAgentEnv:
        env = make_env(self.name, env_config)
        return env if isinstance(env, MultiAgentEnv) else ParallelPettingZooEnv(env)


def register() -> None:
    """Makes every algorithm and environment known to Ray Tune by its name."""
    for name, algorithm in ALGORITHMS.items():
        register_trainable(name, algorithm)
    for name in CATALOG:
        register_env(name, _RLlibCreator(name))
