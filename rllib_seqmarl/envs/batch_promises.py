"""Formal promises of a batched simulator: its attributes, the arrays it returns, and restarts on request.

Cheap enough to be looked at whenever a batch enters RLlib. What only play shows is in `check_batch.py`.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult
from rllib_seqmarl.envs.promises import Breaches

A_BATCH = "a batch of teams"
FLOATS = ("float32", "float64")


def of_attributes(batch: BatchedSimulator) -> Breaches:
    """Whether all attributes are there, and of the kind that `BatchedSimulator` describes."""
    needed = ("num_envs", "agents", "observation_spaces", "action_spaces")
    missing = [name for name in needed if not hasattr(batch, name)]
    if missing:
        yield f"have the attributes {', '.join(needed)}", f"It lacks {', '.join(missing)}: set them in `__init__`."
        return
    if not _is_count(batch.num_envs, 1):
        yield "count its copies in `num_envs`", f"It is {batch.num_envs!r}, not an integer from 1."
    lists = {name: getattr(batch, name) for name in needed[1:]}
    for name, value in lists.items():
        if not isinstance(value, tuple | list):
            yield f"give `{name}` as a tuple, one entry per agent", f"It is {value!r}."
    if all(isinstance(value, tuple | list) for value in lists.values()):
        yield from _of_agents(batch)
    if not _is_count(batch.state_dim, 0):
        yield "say in `state_dim` how large the global state is", f"It is {batch.state_dim!r}, not an integer from 0."
    if batch.has_action_mask not in (True, False):
        yield "say in `has_action_mask` whether there are masks", f"It is {batch.has_action_mask!r}, not True or False."
    if not (batch.render_mode is None or isinstance(batch.render_mode, str)):
        yield "name in `render_mode` how it renders, or None", f"It is {batch.render_mode!r}."
    if not isinstance(batch.metadata, dict):
        yield "have `metadata` as a gymnasium environment has", f"It is {batch.metadata!r}, not a dict."


def _of_agents(batch: BatchedSimulator) -> Breaches:
    agents, seen, acted = batch.agents, batch.observation_spaces, batch.action_spaces
    if not agents:
        yield "name at least one agent", "`agents` is empty."
    if len(set(agents)) < len(agents):
        yield "give each agent a name of its own", f"`agents` is {list(agents)}."
    if not len(agents) == len(seen) == len(acted):
        yield (
            "have one observation space and one action space per agent",
            f"There are {len(agents)} agents, {len(seen)} observation spaces and {len(acted)} action spaces.",
        )
        return
    for agent, space in zip(agents, seen, strict=True):
        if not (isinstance(space, spaces.Box) and len(space.shape) == 1):
            yield "have one-dimensional Boxes as observation spaces", f"Agent {agent!r} has {space}: flatten it."
    are_choices = [isinstance(space, spaces.Discrete) and space.start == 0 for space in acted]
    are_numbers = [
        isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype is not None and space.dtype.kind == "f"
        for space in acted
    ]
    if not (all(are_choices) or all(are_numbers)):
        yield (
            "have action spaces that are all Discrete, counted from 0, or all one-dimensional Boxes of real numbers",
            f"`action_spaces` is {acted}.",
        )
    elif batch.has_action_mask is True and not all(are_choices):
        yield "mask choices only", "`has_action_mask` is True, but agents act by real numbers. Set it to False."


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)


def of_seen(batch: BatchedSimulator, seen: Any, method: str = "reset") -> Breaches:
    """Whether what the teams see has the form that `BatchObservation` describes. The batch's attributes are in order.

    Args:
        batch: Whose it is.
        seen: What `reset` returned, or a part of what `step` did.
        method: Which of the two.
    """
    if not isinstance(seen, BatchObservation):
        yield f"give a BatchObservation from {method}()", f"It gave {_kind(seen)}."
        return
    num_envs, n = batch.num_envs, len(batch.agents)
    size = max(space.shape[0] for space in batch.observation_spaces if space.shape)
    padded = "with each agent's row padded with zeros to the widest agent's size"
    yield from _of_array("observations", seen.observations, ("float32",), (num_envs, n, size), "B, n, size", padded)
    yield from _of_array("alive", seen.alive, ("bool",), (num_envs, n), "B, n")
    if batch.has_action_mask and seen.action_mask is None:
        yield "give action masks at every step if `has_action_mask` is True", "There are none."
    elif not batch.has_action_mask and seen.action_mask is not None:
        yield "set `has_action_mask` to True if it gives action masks", "It is False, so they would not be looked at."
    elif seen.action_mask is not None:
        width = max(int(space.n) for space in batch.action_spaces if isinstance(space, spaces.Discrete))
        padded = "with each agent's row padded to the widest agent's choices"
        yield from _of_array(
            "action_mask", seen.action_mask, ("bool", "int8"), (num_envs, n, width), "B, n, choices", padded
        )
        given = np.asarray(seen.action_mask)
        if given.dtype == np.int8 and not np.isin(given, (0, 1)).all():
            yield "give action masks of 0 and 1", f"Entries are {given.min()} to {given.max()}."
    if batch.state_dim and seen.state is None:
        yield "give the global state at every step if `state_dim` is not 0", "There is none."
    elif not batch.state_dim and seen.state is not None:
        yield "say in `state_dim` how large the global state is", "It is 0, so the state would not be looked at."
    elif batch.state_dim:
        yield from _of_array("state", seen.state, ("float32",), (num_envs, batch.state_dim), "B, state_dim")


def of_moved(batch: BatchedSimulator, moved: Any, reset_mask: np.ndarray) -> Breaches:
    """Whether what a step brought has the form that `StepResult` describes, and copies began that had to.

    Args:
        batch: Whose it is; its attributes are in order.
        moved: What `step` returned.
        begins: bool (B,), as `step` was given it.
    """
    if not isinstance(moved, StepResult):
        yield "give a StepResult from step()", f"It gave {_kind(moved)}."
        return
    yield from of_seen(batch, moved.observation, "step")
    num_envs, n = batch.num_envs, len(batch.agents)
    broken = [
        *_of_array("rewards", moved.rewards, FLOATS, (num_envs, n), "B, n", "with each agent's own reward"),
        *_of_array("terminated", moved.terminated, ("bool",), (num_envs,), "B,"),
        *_of_array("truncated", moved.truncated, ("bool",), (num_envs,), "B,"),
    ]
    if moved.wins is not None:
        broken += _of_array("wins", moved.wins, (*FLOATS, "bool"), (num_envs,), "B,", "or None where nothing is won")
    yield from broken
    if not broken:
        yield from _of_beginners(moved, reset_mask)


def _of_beginners(moved: StepResult, reset_mask: np.ndarray) -> Breaches:
    promise = "let copies that begin start an episode instead of moving: with rewards of 0 and no end"
    for copy in np.flatnonzero(reset_mask):
        if moved.rewards[copy].any():
            yield promise, f"Copy {copy} began with rewards of {moved.rewards[copy].tolist()}. Obey `reset_mask`."
        for name in ("terminated", "truncated"):
            if getattr(moved, name)[copy]:
                yield promise, f"Copy {copy} is {name} as it begins. Obey `reset_mask`."


def _of_array(
    name: str, array: Any, dtypes: tuple[str, ...], shape: tuple[int, ...], letters: str, words: str = ""
) -> Breaches:
    """Whether an array has one of these types and this shape; `letters` name its axes, `words` say more of it."""
    promise = " ".join(filter(None, (f"give `{name}` as a NumPy array of {' or '.join(dtypes)} ({letters})", words)))
    if not isinstance(array, np.ndarray):
        yield promise, f"It is {_kind(array)}: convert it, such as by np.asarray(...) or, in torch, .cpu().numpy()."
    elif array.dtype.name not in dtypes:
        yield promise, f"It is of {array.dtype}: convert it by .astype(np.{dtypes[0]})."
    elif array.shape != shape:
        yield promise, f"Its shape is {array.shape}, not {shape}."


def _kind(value: Any) -> str:
    cls = type(value)
    return repr(value) if value is None else f"a {cls.__module__}.{cls.__qualname__}".replace("builtins.", "")
