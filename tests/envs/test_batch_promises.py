"""A batch that breaks a promise in form is refused where it enters RLlib: by its name, the array's, and the remedy."""

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
        ({"num_envs": 0}, "It must count its copies in `num_envs`. It is 0, not an integer from 1."),
        ({"num_envs": True}, "`num_envs`. It is True, not an integer"),
        ({"agents": "abc"}, "It must give `agents` as a tuple, one entry per agent. It is 'abc'."),
        ({"agents": ()}, "It must name at least one agent. `agents` is empty."),
        ({"agents": ("a", "b", "a")}, "It must give each agent a name of its own. `agents` is ['a', 'b', 'a']."),
        (
            {"action_spaces": (D3, D3)},
            "one action space per agent. There are 3 agents, 3 observation spaces and 2 action spaces.",
        ),
        (
            {"observation_spaces": (spaces.Box(0, 1, (2, 2)),) * 3},
            "have one-dimensional Boxes as observation spaces. Agent 'a' has Box(0.0, 1.0, (2, 2), float32): flatten",
        ),
        ({"action_spaces": (D3, D3, REAL)}, "all Discrete, counted from 0, or all one-dimensional Boxes"),
        ({"action_spaces": (spaces.Discrete(3, start=1),) * 3}, "all Discrete, counted from 0, or all one-dimens"),
        ({"action_spaces": (spaces.MultiBinary(2),) * 3}, "all Discrete, counted from 0, or all one-dimensional Boxes"),
        ({"action_spaces": (REAL,) * 3}, "mask choices only. `has_action_mask` is True, but agents act by real numb"),
        ({"state_dim": -1}, "say in `state_dim` how large the global state is. It is -1, not an integer from 0."),
        ({"has_action_mask": None}, "say in `has_action_mask` whether there are masks. It is None, not True or False."),
        ({"render_mode": 1}, "name in `render_mode` how it renders, or None. It is 1."),
        ({"metadata": None}, "have `metadata` as a gymnasium environment has. It is None, not a dict."),
    ],
)
def test_wrong_attributes_are_refused_at_once(attributes: dict[str, Any], message: str) -> None:
    batch = ToyBatch(B)
    vars(batch).update(attributes)
    with pytest.raises(JointEnvError, match=f"(?s)toys cannot be relied on as a batch of teams.*{re.escape(message)}"):
        JointBatchEnv(batch, name="toys")


def test_attributes_that_are_missing_are_listed() -> None:
    batch = ToyBatch(B)
    del batch.num_envs, batch.action_spaces
    with pytest.raises(JointEnvError, match=re.escape("It lacks num_envs, action_spaces: set them in `__init__`.")):
        JointBatchEnv(batch)


def test_lists_do_for_tuples() -> None:
    batch = ToyBatch(B)
    batch.agents, batch.observation_spaces = list(batch.agents), list(batch.observation_spaces)  # type: ignore
    assert JointBatchEnv(batch).layout == JointBatchEnv(ToyBatch(B)).layout


class NoArray:
    """As a tensor of another library."""


SEEN = [
    (
        "observations",
        lambda array: array.astype(np.float64),
        "`observations` as a NumPy array of float32 (B, n, size) with each agent's row padded with zeros to the widest "
        "agent's size. {when}It is of float64: convert it by .astype(np.float32).",
    ),
    ("observations", lambda array: array[:, :2], "{when}Its shape is (4, 2, 3), not (4, 3, 3)."),
    (
        "observations",
        lambda array: NoArray(),
        "{when}It is a test_batch_promises.NoArray: convert it, such as by np.as",
    ),
    ("alive", lambda array: array.astype(np.int8), "`alive` as a NumPy array of bool (B, n). {when}It is of int8: con"),
    ("alive", lambda array: array[:, 0], "`alive` as a NumPy array of bool (B, n). {when}Its shape is (4,), not (4, 3"),
    ("action_mask", lambda array: None, "masks at every step if `has_action_mask` is True. {when}There are none."),
    ("action_mask", lambda array: array * 1.0, "of bool or int8 (B, n, choices) with each agent's row padded to the w"),
    ("action_mask", lambda array: array[..., :2], "{when}Its shape is (4, 3, 2), not (4, 3, 3)."),
    ("action_mask", lambda array: array * np.int8(3), "give action masks of 0 and 1. {when}Entries are 0 to 3."),
    ("state", lambda array: None, "give the global state at every step if `state_dim` is not 0. {when}There is none."),
    ("state", lambda array: array.T, "`state` as a NumPy array of float32 (B, state_dim). {when}Its shape is (2, 4)"),
]


@pytest.mark.parametrize("when", ["At reset: ", "At step 1: "])
@pytest.mark.parametrize(("part", "change", "message"), SEEN)
def test_what_the_teams_see_has_its_form(part: str, change: Callable[..., Any], message: str, when: str) -> None:
    batch = ToyBatch(B)
    see, calls = batch._see, iter((0, 1))

    def spoilt() -> Any:
        seen = see()
        if next(calls) == (when == "At step 1: "):
            return seen._replace(**{part: change(getattr(seen, part))})
        return seen

    batch._see = spoilt  # type: ignore[method-assign]
    env = JointBatchEnv(batch, name="toys")
    with pytest.raises(JointEnvError, match=re.escape(message.format(when=when))):
        env.reset(seed=0)
        assert when == "At step 1: "
        env.step(np.zeros((B, 3), np.int64))


def test_masks_and_states_that_are_not_declared_are_refused() -> None:
    for attribute, value, message in (
        ("has_action_mask", False, "set `has_action_mask` to True if it gives action masks. At reset: It is False"),
        ("state_dim", 0, "say in `state_dim` how large the global state is. At reset: It is 0"),
    ):
        batch = ToyBatch(B)
        setattr(batch, attribute, value)
        with pytest.raises(JointEnvError, match=message):
            JointBatchEnv(batch).reset(seed=0)


def stepped(env: JointBatchEnv, steps: int) -> None:
    env.reset(seed=0)
    for _ in range(steps):
        env.step(np.zeros((B, 3), np.int64))


def spoil(batch: ToyBatch, change: Callable[..., Any]) -> JointBatchEnv:
    """`change` makes of what a step brought, and of who began, what the batch gives instead."""
    step = batch.step
    batch.step = lambda actions, reset_mask: change(step(actions, reset_mask), reset_mask)  # type: ignore[method-assign]
    return JointBatchEnv(batch, name="toys")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda moved, reset_mask: moved._replace(rewards=moved.rewards.astype(int)),
            "`rewards` as a NumPy array of float",
        ),
        (lambda moved, reset_mask: moved._replace(rewards=moved.rewards[:, 0]), "Its shape is (4,), not (4, 3)."),
        (
            lambda moved, reset_mask: moved._replace(terminated=moved.terminated * 1.0),
            "`terminated` as a NumPy array of bo",
        ),
        (
            lambda moved, reset_mask: moved._replace(truncated=False),
            "`truncated` as a NumPy array of bool (B,). At step 1: I",
        ),
        (
            lambda moved, reset_mask: moved._replace(wins=moved.wins[None]),
            "`wins` as a NumPy array of float32 or float64 or",
        ),
        (lambda moved, reset_mask: tuple(moved), "It must give a StepResult from step(). At step 1: It gave a tuple."),
        (
            lambda moved, reset_mask: moved._replace(observation=None),
            "It must give a BatchObservation from step(). At step 1: It gave None.",
        ),
    ],
)
def test_what_a_step_brings_has_its_form(change: Callable[..., Any], message: str) -> None:
    with pytest.raises(JointEnvError, match=re.escape(message)):
        stepped(spoil(ToyBatch(B), change), 1)


def test_a_reset_gives_what_is_seen() -> None:
    batch = ToyBatch(B)
    batch.reset = lambda seeds=None: (batch._see(), {})  # type: ignore
    with pytest.raises(
        JointEnvError, match=re.escape("give a BatchObservation from reset(). At reset: It gave a tuple.")
    ):
        JointBatchEnv(batch).reset(seed=0)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("rewards", r"with rewards of 0 and no end. At step \d: Copy \d began with rewards of \[1.0, 1.0, 1.0\]. Obey"),
        ("terminated", r"At step \d: Copy \d is terminated as it begins. Obey `reset_mask`."),
        ("truncated", r"At step \d: Copy \d is truncated as it begins."),
    ],
)
def test_the_first_copies_that_begin_anew_are_looked_at(part: str, message: str) -> None:
    def disobey(moved: Any, reset_mask: np.ndarray) -> Any:
        array = getattr(moved, part).copy()
        array[reset_mask] = True
        return moved._replace(**{part: array})

    with pytest.raises(JointEnvError, match=message):
        stepped(spoil(ToyBatch(B), disobey), 7)


def test_nothing_is_looked_at_once_copies_have_begun_anew() -> None:
    batch = ToyBatch(B)
    env = JointBatchEnv(batch)
    stepped(env, 2)
    assert env.teams._step_batch != batch.step
    stepped(env, 7)  # an episode lasts 6 steps at most
    assert env.teams._step_batch == batch.step
