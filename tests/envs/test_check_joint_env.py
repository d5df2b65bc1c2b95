"""The check finds each defect that is planted, names agent and step, and finds nothing in sound
environments."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from test_env_messages import BROKEN
from toy_envs import TakingTurns, ToyTeam

from rllib_seqmarl.envs import JointEnv, JointEnvError, check_joint_env, make_joint_env

D3 = spaces.Discrete(3)
HALF = spaces.Box(-0.5, 0.5, (1,), np.float32)


@pytest.mark.parametrize(
    "team",
    [
        ToyTeam(),
        ToyTeam([D3, spaces.Discrete(5, start=1)], masks="info", deaths={"a": 3}),
        ToyTeam([D3, D3], masks="observation", absent=("b",)),
        ToyTeam([spaces.MultiDiscrete([2, 3]), D3], obs_sizes=[4, 1], dtype=np.float64),
        ToyTeam([HALF, HALF], terminates=True, render_mode="rgb_array"),
        TakingTurns(),
        TakingTurns({"end": "terminated"}),
        TakingTurns,
        JointEnv(ToyTeam()),
        make_joint_env("mpe/simple_spread"),
    ],
)
def test_sound_environments_pass(team: Any) -> None:
    check_joint_env(team)


def spoiled_reset(value: Any) -> ToyTeam:
    team = ToyTeam()
    team.reset = lambda seed=None, options=None: value  # type: ignore[method-assign, assignment]
    return team


def unseeded() -> ToyTeam:
    team = ToyTeam()
    reset = team.reset
    team.reset = lambda seed=None, options=None: reset()  # type: ignore[method-assign]
    return team


def forgets_to_leave() -> ToyTeam:
    team = ToyTeam(deaths={"b": 2})
    team.spoil = lambda results, step: team.agents.append("b") if step == 2 else None
    return team


def leaves_unsaid() -> ToyTeam:
    team = ToyTeam()
    team.spoil = lambda results, step: team.agents.remove("b") if step == 2 else None
    return team


def moody_spaces() -> ToyTeam:
    team = ToyTeam()
    asked: list[str] = []

    def space(agent: str) -> spaces.Space:
        asked.append(agent)
        return spaces.Discrete(len(asked) + 1)

    team.action_space = space  # type: ignore[method-assign]
    return team


def no_picture() -> ToyTeam:
    team = ToyTeam(render_mode="rgb_array")
    team.render = lambda: None  # type: ignore[method-assign, assignment, return-value]
    return team


def revived() -> TakingTurns:
    return TakingTurns({"spoil": lambda results, step: results[2].update(x=True) if step == 1 else None})


@pytest.mark.parametrize(
    ("team", "message"),
    [
        (ToyTeam([]), "toy_team: there are no agents. Declare at least one"),
        (ToyTeam([D3, HALF]), "toy_team: the action spaces cannot be joined: 'a'"),
        (moody_spaces(), "It must give the same spaces each time it is asked. Agent 'a'"),
        (spoiled_reset(({}, {})), "toy_team, at reset: no agent has an observation."),
        (unseeded(), "It must play the same episode for the same seed and actions. reset(seed=0) gave two."),
        (revived(), "TakingTurns, step 3: agent 'x' is back: it has an observation, but has terminated"),
        (leaves_unsaid(), "step 2: agent 'b' left `agents` without being terminated or truncated"),
        (forgets_to_leave(), "step 2: agent 'b' is missing: `agents` says that it acts next"),
        (
            TakingTurns({"spoil": lambda r, step: [seen.__imul__(-1) for seen in r[0].values()] and None}),
            "It must give observations within the bounds of their space. At step 1 after reset(seed=0): Agent 'y'",
        ),
        (
            no_picture(),
            "It must give a picture (height, width, 3) from render() with render_mode='rgb_array'.",
        ),
    ],
)
def test_each_planted_defect_is_found(team: Any, message: str) -> None:
    with pytest.raises(JointEnvError, match=re.escape(message)):
        check_joint_env(team)


@pytest.mark.parametrize(("team", "message"), BROKEN)
def test_what_training_refuses_is_refused_in_the_same_words(team: Any, message: str) -> None:
    with pytest.raises(JointEnvError, match=re.escape(message)):
        check_joint_env(team)
