"""Promises of environments: how one that is broken is told.

A promise completes the sentence "It must ..."; a breach is a sentence that says what was found instead and, where that
is not plain, what to do.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rllib_seqmarl.envs.errors import JointEnvError

Breaches = Iterator[tuple[str, str]]  # a promise, and how it was broken


def refuse(who: str, as_what: str, where: str, breaches: Iterable[tuple[str, str]]) -> None:
    """Raises JointEnvError if there are breaches; tells the first one of each promise.

    Args:
        who: The environment's name.
        as_what: What it should be, such as "a team's environment".
        where: Precedes each breach, such as "At step 3: "; may be empty.
        breaches: Pairs of a promise and how it was broken.
    """
    first: dict[str, str] = {}
    for promise, breach in breaches:
        first.setdefault(promise, breach)
    if first:
        lines = [f"\n- It must {promise}. {where}{breach}" for promise, breach in first.items()]
        raise JointEnvError(f"{who} cannot be relied on as {as_what}:{''.join(lines)}")


def of_pictures(env: Any) -> Breaches:
    """Of an environment that has been reset, alone or a batch: pictures are given where they were asked for."""
    if getattr(env, "render_mode", None) == "rgb_array":
        picture = env.render()
        if np.ndim(picture) != 3 or np.shape(picture)[2] != 3:
            promise = "give a picture (height, width, 3) from render() with render_mode='rgb_array'"
            yield promise, f"It gave {type(picture).__name__} of shape {np.shape(picture)}."
