"""What teams can attain in the coordination tasks; the proofs are in `rllib_seqmarl.envs.suites.coordination`."""

import math

UNREPEATED_INDEPENDENT_BOUND = 0.25
"""Upper bound on memoryless product policies' success probability per step of UnrepeatedChoice."""


def independent_bound(n_agents: int, n_choices: int) -> float:
    """Upper bound on decentralised policies' success probability per step of DistinctChoice."""
    return (n_choices - n_agents + 1) / n_choices


def unrepeated_optimum(n_agents: int) -> float:
    """Success probability per step of UnrepeatedChoice for the best memoryless joint policy: 1 - 1/n!."""
    return 1.0 - 1.0 / math.factorial(n_agents)
