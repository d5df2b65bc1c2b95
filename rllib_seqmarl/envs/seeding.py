"""Seeds of many environments derived from one seed."""

import numpy as np


def copy_seeds(seed: int, num_envs: int) -> list[int]:
    """Seeds of `num_envs` copies of an environment; those of neighbouring seeds have nothing in common.

    Args:
        seed: Of all copies together; not negative.
        num_envs: The number of copies.

    Returns:
        Integers of 31 bits.
    """
    return (np.random.SeedSequence(seed).generate_state(num_envs) >> 1).tolist()
