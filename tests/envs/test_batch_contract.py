"""Tests that malformed batches are rejected when they enter RLlib, with a message that suggests a remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from toy_batch import ToyBatch

from rllib_seqmarl.envs import JointEnvError
from rllib_seqmarl.envs.batch_env import JointBatchEnv

B = 4
D3, REAL = spaces.Discrete(3), spaces.Box(-1, 1, (1,), np.float32)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"num_envs": 0}, "It must set `num_envs` to its number of copies. It is 0, not an integer >= 1."),
        ({"num_envs": True}, "`num_envs` to its number of copies. It is True, not an integer"),
        ({"agents": "abc"}, "It must define `agents` as a tuple with one entry per agent. It is 'abc'."),
        ({"agents": ()}, "It must have at least one agent. `agents` is empty."),
        ({"agents": ("a", "b", "a")}, "It must give each agent a unique name. `agents` is ['a', 'b', 'a']."),
        (
            {"action_spaces": (D3, D3)},
            "one action space per agent. There are 3 agents, 3 observation spaces and 2 action spaces.",
        ),
        (
            {"observation_spaces": (spaces.Box(0, 1, (2, 2)),) * 3},
            "have one-dimensional Box observation spaces. Agent 'a' has Box(0.0, 1.0, (2, 2), float32): flatten",
        ),
        ({"action_spaces": (D3, D3, REAL)}, "all Discrete, starting at 0, or all one-dimensional floating-point Boxes"),
        ({"action_spaces": (spaces.Discrete(3, start=1),) * 3}, "all Discrete, starting at 0, or all one-dimens"),
        (
            {"action_spaces": (spaces.MultiBinary(2),) * 3},
            "all Discrete, starting at 0, or all one-dimensional floating-point Boxes",
        ),
        ({"action_spaces": (REAL,) * 3}, "mask discrete actions only. `has_action_mask` is True, but actions are cont"),
        ({"state_dim": -1}, "set `state_dim` to the size of the global state. It is -1, not an integer >= 0."),
        (
            {"has_action_mask": None},
            "set `has_action_mask` to whether it returns action masks. It is None, not True or False.",
        ),
        ({"render_mode": 1}, "set `render_mode` to the name of a render mode or None. It is 1."),
        ({"metadata": None}, "have `metadata` like a gymnasium environment. It is None, not a dict."),
    ],
)
def test_invalid_attributes_are_rejected(attributes: dict[str, Any], message: str) -> None:
    batch = ToyBatch(B)
    vars(batch).update(attributes)
    with pytest.raises(JointEnvError, match=f"(?s)toys is not a valid batch of teams.*{re.escape(message)}"):
        JointBatchEnv(batch, name="toys")


def test_missing_attributes_are_listed() -> None:
    batch = ToyBatch(B)
    del batch.num_envs, batch.action_spaces
    with pytest.raises(JointEnvError, match=re.escape("Missing: num_envs, action_spaces. Set them in `__init__`.")):
        JointBatchEnv(batch)


def test_lists_are_accepted() -> None:
    batch = ToyBatch(B)
    batch.agents, batch.observation_spaces = list(batch.agents), list(batch.observation_spaces)  # type: ignore
    assert JointBatchEnv(batch).layout == JointBatchEnv(ToyBatch(B)).layout


class NotAnArray:
    """Like a tensor of another library."""


OBSERVATION_DEFECTS = [
    (
        "observations",
        lambda array: array.astype(np.float64),
        "`observations` as a NumPy array of float32 (B, n, size) with each agent's row zero-padded to the widest "
        "agent's size. {when}Its dtype is float64: convert it with .astype(np.float32).",
    ),
    ("observations", lambda array: array[:, :2], "{when}Its shape is (4, 2, 3), not (4, 3, 3)."),
    (
        "observations",
        lambda array: NotAnArray(),
        "{when}It is a test_batch_contract.NotAnArray: convert it with np.as",
    ),
    ("alive", lambda array: array.astype(np.int8), "`alive` as a NumPy array of bool (B, n). {when}Its dtype is int8"),
    ("alive", lambda array: array[:, 0], "`alive` as a NumPy array of bool (B, n). {when}Its shape is (4,), not (4, 3"),
    ("action_mask", lambda array: None, "masks at every step if `has_action_mask` is True. {when}There are none."),
    ("action_mask", lambda array: array * 1.0, "of bool or int8 (B, n, choices) with each agent's row padded to the w"),
    ("action_mask", lambda array: array[..., :2], "{when}Its shape is (4, 3, 2), not (4, 3, 3)."),
    (
        "action_mask",
        lambda array: array * np.int8(3),
        "return action masks of 0 and 1. {when}Entries range from 0 to 3.",
    ),
    (
        "state",
        lambda array: None,
        "return the global state at every step if `state_dim` is not 0. {when}There is none.",
    ),
    ("state", lambda array: array.T, "`state` as a NumPy array of float32 (B, state_dim). {when}Its shape is (2, 4)"),
]


@pytest.mark.parametrize("when", ["At reset: ", "At step 1: "])
@pytest.mark.parametrize(("part", "change", "message"), OBSERVATION_DEFECTS)
def test_malformed_observations_are_rejected(part: str, change: Callable[..., Any], message: str, when: str) -> None:
    batch = ToyBatch(B)
    see, calls = batch._see, iter((0, 1))

    def corrupted_see() -> Any:
        observation = see()
        if next(calls) == (when == "At step 1: "):
            return observation._replace(**{part: change(getattr(observation, part))})
        return observation

    batch._see = corrupted_see  # type: ignore[method-assign]
    env = JointBatchEnv(batch, name="toys")
    with pytest.raises(JointEnvError, match=re.escape(message.format(when=when))):
        env.reset(seed=0)
        assert when == "At step 1: "
        env.step(np.zeros((B, 3), np.int64))


def test_undeclared_masks_and_states_are_rejected() -> None:
    for attribute, value, message in (
        ("has_action_mask", False, "set `has_action_mask` to True if it returns action masks. At reset: It is False"),
        ("state_dim", 0, "set `state_dim` to the size of the global state. At reset: It is 0"),
    ):
        batch = ToyBatch(B)
        setattr(batch, attribute, value)
        with pytest.raises(JointEnvError, match=message):
            JointBatchEnv(batch).reset(seed=0)


def play(env: JointBatchEnv, steps: int) -> None:
    env.reset(seed=0)
    for _ in range(steps):
        env.step(np.zeros((B, 3), np.int64))


def corrupt(batch: ToyBatch, change: Callable[..., Any]) -> JointBatchEnv:
    """Replace the batch's step results by `change(result, reset_mask)`."""
    step = batch.step
    batch.step = lambda actions, reset_mask: change(step(actions, reset_mask), reset_mask)  # type: ignore[method-assign]
    return JointBatchEnv(batch, name="toys")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda result, reset_mask: result._replace(rewards=result.rewards.astype(int)),
            "`rewards` as a NumPy array of float",
        ),
        (lambda result, reset_mask: result._replace(rewards=result.rewards[:, 0]), "Its shape is (4,), not (4, 3)."),
        (
            lambda result, reset_mask: result._replace(terminated=result.terminated * 1.0),
            "`terminated` as a NumPy array of bo",
        ),
        (
            lambda result, reset_mask: result._replace(truncated=False),
            "`truncated` as a NumPy array of bool (B,). At step 1: I",
        ),
        (
            lambda result, reset_mask: result._replace(wins=result.wins[None]),
            "`wins` as a NumPy array of float32 or float64 or",
        ),
        (
            lambda result, reset_mask: tuple(result),
            "It must return a StepResult from step(). At step 1: It returned a tuple.",
        ),
        (
            lambda result, reset_mask: result._replace(observation=None),
            "It must return a BatchObservation from step(). At step 1: It returned None.",
        ),
    ],
)
def test_malformed_step_results_are_rejected(change: Callable[..., Any], message: str) -> None:
    with pytest.raises(JointEnvError, match=re.escape(message)):
        play(corrupt(ToyBatch(B), change), 1)


def test_malformed_reset_results_are_rejected() -> None:
    batch = ToyBatch(B)
    batch.reset = lambda seeds=None: (batch._see(), {})  # type: ignore
    with pytest.raises(
        JointEnvError, match=re.escape("return a BatchObservation from reset(). At reset: It returned a tuple.")
    ):
        JointBatchEnv(batch).reset(seed=0)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            "rewards",
            r"with rewards of 0 and no end. At step \d: Copy \d restarted with rewards of \[1.0, 1.0, 1.0\]. Follow",
        ),
        ("terminated", r"At step \d: Copy \d is terminated as it restarts. Follow `reset_mask`."),
        ("truncated", r"At step \d: Copy \d is truncated as it restarts."),
    ],
)
def test_the_first_restart_is_checked(part: str, message: str) -> None:
    def ignore_reset_mask(result: Any, reset_mask: np.ndarray) -> Any:
        array = getattr(result, part).copy()
        array[reset_mask] = True
        return result._replace(**{part: array})

    with pytest.raises(JointEnvError, match=message):
        play(corrupt(ToyBatch(B), ignore_reset_mask), 7)


def test_checks_stop_after_the_first_restart() -> None:
    batch = ToyBatch(B)
    env = JointBatchEnv(batch)
    play(env, 2)
    assert env.teams._step_batch != batch.step
    play(env, 7)  # an episode has at most 6 steps
    assert env.teams._step_batch == batch.step
