"""Derivation of seeds for many environments from one seed."""

import numpy as np


def copy_seeds(seed: int, num_envs: int) -> list[int]:
    """Derive seeds for `num_envs` copies of an environment, unrelated even for consecutive values of `seed`.

    Args:
        seed: A non-negative seed for all copies.
        num_envs: The number of copies.

    Returns:
        31-bit integers.
    """
    return (np.random.SeedSequence(seed).generate_state(num_envs) >> 1).tolist()
