"""The contract of a batched simulator: its attributes, the arrays it returns, and restarts on request.

These checks are cheap enough to run whenever a batch enters RLlib. Those that have to play episodes are in
`check_batch.py`.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult
from rllib_seqmarl.envs.contract import Violations

BATCH = "batch of teams"
FLOATS = ("float32", "float64")


def check_attributes(batch: BatchedSimulator) -> Violations:
    """Check that all attributes are present and have the types documented in `BatchedSimulator`."""
    required = ("num_envs", "agents", "observation_spaces", "action_spaces")
    missing = [name for name in required if not hasattr(batch, name)]
    if missing:
        yield f"have the attributes {', '.join(required)}", f"Missing: {', '.join(missing)}. Set them in `__init__`."
        return
    if not _is_count(batch.num_envs, 1):
        yield "set `num_envs` to its number of copies", f"It is {batch.num_envs!r}, not an integer >= 1."
    lists = {name: getattr(batch, name) for name in required[1:]}
    for name, value in lists.items():
        if not isinstance(value, tuple | list):
            yield f"define `{name}` as a tuple with one entry per agent", f"It is {value!r}."
    if all(isinstance(value, tuple | list) for value in lists.values()):
        yield from _check_agents(batch)
    if not _is_count(batch.state_dim, 0):
        yield "set `state_dim` to the size of the global state", f"It is {batch.state_dim!r}, not an integer >= 0."
    if batch.has_action_mask not in (True, False):
        yield (
            "set `has_action_mask` to whether it returns action masks",
            f"It is {batch.has_action_mask!r}, not True or False.",
        )
    if not (batch.render_mode is None or isinstance(batch.render_mode, str)):
        yield "set `render_mode` to the name of a render mode or None", f"It is {batch.render_mode!r}."
    if not isinstance(batch.metadata, dict):
        yield "have `metadata` like a gymnasium environment", f"It is {batch.metadata!r}, not a dict."


def _check_agents(batch: BatchedSimulator) -> Violations:
    agents, observation_spaces, action_spaces = batch.agents, batch.observation_spaces, batch.action_spaces
    if not agents:
        yield "have at least one agent", "`agents` is empty."
    if any(agents.count(agent) > 1 for agent in agents):
        yield "give each agent a unique name", f"`agents` is {list(agents)}."
    if not len(agents) == len(observation_spaces) == len(action_spaces):
        yield (
            "have one observation space and one action space per agent",
            f"There are {len(agents)} agents, {len(observation_spaces)} observation spaces and {len(action_spaces)} "
            "action spaces.",
        )
        return
    for agent, space in zip(agents, observation_spaces, strict=True):
        if not (isinstance(space, spaces.Box) and len(space.shape) == 1):
            yield "have one-dimensional Box observation spaces", f"Agent {agent!r} has {space}: flatten it."
    are_discrete = [isinstance(space, spaces.Discrete) and space.start == 0 for space in action_spaces]
    are_continuous = [
        isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype is not None and space.dtype.kind == "f"
        for space in action_spaces
    ]
    if not (all(are_discrete) or all(are_continuous)):
        yield (
            "have action spaces that are all Discrete, starting at 0, or all one-dimensional floating-point Boxes",
            f"`action_spaces` is {action_spaces}.",
        )
    elif batch.has_action_mask is True and not all(are_discrete):
        yield "mask discrete actions only", "`has_action_mask` is True, but actions are continuous. Set it to False."


def _is_count(value: Any, minimum: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= minimum)


def check_observation(batch: BatchedSimulator, observation: Any, method: str = "reset") -> Violations:
    """Check that an observation has the form documented in `BatchObservation`.

    Args:
        batch: The simulator; its attributes are valid.
        observation: The return value of `reset`, or the observation in that of `step`.
        method: The method that returned it, "reset" or "step".
    """
    if not isinstance(observation, BatchObservation):
        yield f"return a BatchObservation from {method}()", f"It returned {_type_name(observation)}."
        return
    num_envs, n = batch.num_envs, len(batch.agents)
    size = max(space.shape[0] for space in batch.observation_spaces if space.shape)
    padded = "with each agent's row zero-padded to the widest agent's size"
    yield from _check_array(
        "observations", observation.observations, ("float32",), (num_envs, n, size), "B, n, size", padded
    )
    yield from _check_array("alive", observation.alive, ("bool",), (num_envs, n), "B, n")
    if batch.has_action_mask and observation.action_mask is None:
        yield "return action masks at every step if `has_action_mask` is True", "There are none."
    elif not batch.has_action_mask and observation.action_mask is not None:
        yield "set `has_action_mask` to True if it returns action masks", "It is False, so they would be ignored."
    elif observation.action_mask is not None:
        width = max(int(space.n) for space in batch.action_spaces if isinstance(space, spaces.Discrete))
        padded = "with each agent's row padded to the widest agent's choices"
        yield from _check_array(
            "action_mask", observation.action_mask, ("bool", "int8"), (num_envs, n, width), "B, n, choices", padded
        )
        mask = np.asarray(observation.action_mask)
        if mask.dtype == np.int8 and not np.isin(mask, (0, 1)).all():
            yield "return action masks of 0 and 1", f"Entries range from {mask.min()} to {mask.max()}."
    if batch.state_dim and observation.state is None:
        yield "return the global state at every step if `state_dim` is not 0", "There is none."
    elif not batch.state_dim and observation.state is not None:
        yield "set `state_dim` to the size of the global state", "It is 0, so the state would be ignored."
    elif batch.state_dim:
        yield from _check_array("state", observation.state, ("float32",), (num_envs, batch.state_dim), "B, state_dim")


def check_step_result(batch: BatchedSimulator, result: Any, reset_mask: np.ndarray) -> Violations:
    """Check that a result has the form documented in `StepResult` and that `reset_mask` was followed.

    Args:
        batch: The simulator; its attributes are valid.
        result: The return value of `step`.
        reset_mask: bool (B,), as passed to `step`.
    """
    if not isinstance(result, StepResult):
        yield "return a StepResult from step()", f"It returned {_type_name(result)}."
        return
    yield from check_observation(batch, result.observation, "step")
    num_envs, n = batch.num_envs, len(batch.agents)
    violations = [
        *_check_array("rewards", result.rewards, FLOATS, (num_envs, n), "B, n", "with each agent's own reward"),
        *_check_array("terminated", result.terminated, ("bool",), (num_envs,), "B,"),
        *_check_array("truncated", result.truncated, ("bool",), (num_envs,), "B,"),
    ]
    if result.wins is not None:
        note = "or None if the task has no wins"
        violations += _check_array("wins", result.wins, (*FLOATS, "bool"), (num_envs,), "B,", note)
    yield from violations
    if not violations:
        yield from _check_restarts(result, reset_mask)


def _check_restarts(result: StepResult, reset_mask: np.ndarray) -> Violations:
    rule = "start a new episode instead of stepping where `reset_mask` is set, with rewards of 0 and no end"
    for copy in np.flatnonzero(reset_mask):
        if result.rewards[copy].any():
            yield rule, f"Copy {copy} restarted with rewards of {result.rewards[copy].tolist()}. Follow `reset_mask`."
        for name in ("terminated", "truncated"):
            if getattr(result, name)[copy]:
                yield rule, f"Copy {copy} is {name} as it restarts. Follow `reset_mask`."


def _check_array(
    name: str, array: Any, dtypes: tuple[str, ...], shape: tuple[int, ...], axes: str, note: str = ""
) -> Violations:
    """Check an array's type, dtype and shape; `axes` names its axes, and `note` extends the rule."""
    rule = " ".join(filter(None, (f"return `{name}` as a NumPy array of {' or '.join(dtypes)} ({axes})", note)))
    if not isinstance(array, np.ndarray):
        yield rule, f"It is {_type_name(array)}: convert it with np.asarray(...) or, in torch, .cpu().numpy()."
    elif array.dtype.name not in dtypes:
        yield rule, f"Its dtype is {array.dtype}: convert it with .astype(np.{dtypes[0]})."
    elif array.shape != shape:
        yield rule, f"Its shape is {array.shape}, not {shape}."


def _type_name(value: Any) -> str:
    cls = type(value)
    return repr(value) if value is None else f"a {cls.__module__}.{cls.__qualname__}".replace("builtins.", "")
