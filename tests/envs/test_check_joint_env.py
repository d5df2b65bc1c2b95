"""Tests that the check reports each planted defect and passes correct environments."""

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
def test_correct_environments_pass(team: Any) -> None:
    check_joint_env(team)


class ReadsContext(TakingTurns):
    """Reads attributes of RLlib's EnvContext."""

    def __init__(self, config: Any):
        super().__init__({"length": config["length"]})
        self.worker = config.worker_index, config.vector_index, config.num_workers


@pytest.mark.parametrize("source", [ReadsContext, lambda config: ReadsContext(config)])
def test_creators_get_rllibs_context_as_in_training(source: Any) -> None:
    check_joint_env(source, {"length": 3})


def reset_returning(value: Any) -> ToyTeam:
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


def leaves_without_flag() -> ToyTeam:
    team = ToyTeam()
    team.spoil = lambda results, step: team.agents.remove("b") if step == 2 else None
    return team


def changing_spaces() -> ToyTeam:
    team = ToyTeam()
    calls: list[str] = []

    def space(agent: str) -> spaces.Space:
        calls.append(agent)
        return spaces.Discrete(len(calls) + 1)

    team.action_space = space  # type: ignore[method-assign]
    return team


def without_image() -> ToyTeam:
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
        (changing_spaces(), "It must return the same spaces every time. Those of agent 'a'"),
        (reset_returning(({}, {})), "toy_team, at reset: no agent has an observation."),
        (unseeded(), "It must play the same episode for the same seed and actions. Two with reset(seed=0) differed."),
        (revived(), "TakingTurns, step 3: agent 'x' has an observation, but was already terminated"),
        (leaves_without_flag(), "step 2: agent 'b' left `agents` without being terminated or truncated"),
        (forgets_to_leave(), "step 2: agent 'b' is missing: it is in `agents`, so it acts next"),
        (
            TakingTurns({"spoil": lambda r, step: [array.__imul__(-1) for array in r[0].values()] and None}),
            "It must return observations within the bounds of their space. At step 1 after reset(seed=0): Agent 'y'",
        ),
        (
            without_image(),
            "It must return an image (height, width, 3) from render() with render_mode='rgb_array'.",
        ),
    ],
)
def test_defects_are_reported(team: Any, message: str) -> None:
    with pytest.raises(JointEnvError, match=re.escape(message)):
        check_joint_env(team)


@pytest.mark.parametrize(("team", "message"), BROKEN)
def test_training_errors_are_raised_with_the_same_messages(team: Any, message: str) -> None:
    with pytest.raises(JointEnvError, match=re.escape(message)):
        check_joint_env(team)
