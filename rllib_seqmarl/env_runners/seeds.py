"""Random seeds of env runners and their environments, derived from the config's seed.

RLlib adds the worker's index to the config's seed, and a vector environment adds the environment's index to that.
Environment i + 1 of a worker then duplicates environment i of the next worker, and trials with neighbouring seeds
overlap in the same way. Here every environment has an independent stream.
"""

from typing import NamedTuple

import numpy as np

_ENVS, _PROCESS = 0, 1  # what a worker's seed is used for


class SeedKey(NamedTuple):
    """An env runner and a point in its lifetime. Different keys give independent seeds.

    Attributes:
        worker_index: The env runner's index in its group.
        in_evaluation: Whether the env runner is used for evaluation.
        restarts: How often its process has been restarted.
        env_steps: The number of steps sampled so far; positive after a restore from a checkpoint.
        envs_made: How often its environments have been created.
    """

    worker_index: int = 0
    in_evaluation: bool = False
    restarts: int = 0
    env_steps: int = 0
    envs_made: int = 0


def env_seeds(seed: int | None, key: SeedKey, num_envs: int) -> list[int] | None:
    """Return one seed per environment of an env runner; None if `seed` is None."""
    return None if seed is None else _draw(seed, key, _ENVS, num_envs)


def process_seed(seed: int, key: SeedKey) -> int:
    """Return the seed of a remote env runner's global random generators, which sample its actions."""
    return _draw(seed, key, _PROCESS, 1)[0]


def _draw(seed: int, key: SeedKey, use: int, count: int) -> list[int]:
    words = np.random.SeedSequence(seed, spawn_key=(use, *map(int, key))).generate_state(count)
    return [int(word) >> 1 for word in words]  # some simulators accept only signed 32-bit integers
