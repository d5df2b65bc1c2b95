"""Random seeds of env runners and their environments: one derivation, from the config's seed.

RLlib adds the worker's index to the config's seed, and a vector environment adds the environment's index to that. Then
environment i + 1 of a worker is a copy of environment i of the next one, and trials with neighbouring seeds are copies
as well. Here every environment has an independent stream.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_ENVS, _PROCESS = 0, 1  # the uses of a worker's seed


class SeedKey(NamedTuple):
    """The env runner and the point in its life that seeds are for. Different keys give independent seeds.

    Attributes:
        worker_index: The env runner's index in its group.
        in_evaluation: Whether it evaluates.
        restarts: How often its process has been restarted.
        env_steps: How many steps the algorithm had sampled, which is more than 0 after a restore from a checkpoint.
        envs_made: How often its environments have been made.
    """

    worker_index: int = 0
    in_evaluation: bool = False
    restarts: int = 0
    env_steps: int = 0
    envs_made: int = 0


def env_seeds(seed: int | None, key: SeedKey, num_envs: int) -> list[int] | None:
    """One seed for each environment of an env runner; None without a seed."""
    return None if seed is None else _draw(seed, key, _ENVS, num_envs)


def process_seed(seed: int, key: SeedKey) -> int:
    """The seed of a remote env runner's global random generators, which draw its actions."""
    return _draw(seed, key, _PROCESS, 1)[0]


def _draw(seed: int, key: SeedKey, use: int, count: int) -> list[int]:
    words = np.random.SeedSequence(seed, spawn_key=(use, *map(int, key))).generate_state(count)
    return [int(word) >> 1 for word in words]  # some simulators take signed 32-bit integers only
