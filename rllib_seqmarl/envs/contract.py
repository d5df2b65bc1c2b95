"""Violations of the environment contract and the error that reports them.

A rule completes the sentence "It must ..."; a finding states what was found instead and, where it is not obvious, how
to fix it.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rllib_seqmarl.envs.errors import JointEnvError

Violations = Iterator[tuple[str, str]]  # (rule, finding)


def raise_violations(name: str, kind: str, where: str, violations: Iterable[tuple[str, str]]) -> None:
    """Raise JointEnvError if there are violations, with the first finding for each rule.

    Args:
        name: The environment's name.
        kind: What it should be, such as "batch of teams".
        where: Prefix of each finding, such as "At step 3: "; may be empty.
        violations: Pairs of a rule and a finding.
    """
    first: dict[str, str] = {}
    for rule, finding in violations:
        first.setdefault(rule, finding)
    if first:
        lines = [f"\n- It must {rule}. {where}{finding}" for rule, finding in first.items()]
        raise JointEnvError(f"{name} is not a valid {kind}:{''.join(lines)}")


def check_rendering(env: Any) -> Violations:
    """Check that an environment or batch that has been reset renders images if its render mode says so."""
    if getattr(env, "render_mode", None) == "rgb_array":
        image = env.render()
        if np.ndim(image) != 3 or np.shape(image)[2] != 3:
            rule = "return an image (height, width, 3) from render() with render_mode='rgb_array'"
            yield rule, f"It returned {type(image).__name__} of shape {np.shape(image)}."
