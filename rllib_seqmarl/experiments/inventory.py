"""What there is to run, and what is missing to use it."""

from __future__ import annotations

import inspect

from ray.rllib.algorithms.registry import ALGORITHMS as RLLIB_ALGORITHMS

from rllib_seqmarl.envs import CATALOG
from rllib_seqmarl.experiments.report import table
from rllib_seqmarl.experiments.tuned import tuned_configs
from rllib_seqmarl.registry import ALGORITHMS


def inventory() -> str:
    """All algorithms, environments and tuned configurations, as text."""
    algorithms = [[name, (inspect.getdoc(cls) or "").splitlines()[0]] for name, cls in ALGORITHMS.items()]
    environments = [
        [name, entry.summary, f"missing: {entry.missing()}" if entry.missing() else "ready"]
        for name, entry in CATALOG.items()
    ]
    configs = [[name, f"rllib train file {name}"] for name in tuned_configs()]
    return "\n\n".join(
        (
            table(["algorithm", ""], algorithms),
            f"RLlib's own: {', '.join(RLLIB_ALGORITHMS)}",
            table(["environment", "", ""], environments),
            table(["tuned configuration", ""], configs),
        )
    )
