"""The check finds each defect that is planted, names agent and step, and finds nothing in sound
environments."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from test_env_messages import NAN_SEEN, change
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


def undeclared_mask_key() -> ToyTeam:
    team = ToyTeam(masks="observation", spoil=change(0, "a", NAN_SEEN))
    return team


@pytest.mark.parametrize(
    ("team", "message"),
    [
        (ToyTeam([]), "It must name at least one agent. `possible_agents` is empty."),
        (
            ToyTeam([D3, HALF]),
            "It must have spaces that can be joined. But the action spaces cannot be joined: 'a'",
        ),
        (moody_spaces(), "It must give the same spaces each time it is asked. Agent 'a'"),
        (spoiled_reset({}), "It must give a pair of dictionaries (observations, infos) from reset()."),
        (
            spoiled_reset(({}, {})),
            "It must give somebody an observation after a reset. At reset(seed=0): Nobody can act.",
        ),
        (unseeded(), "It must play the same episode for the same seed and actions."),
        (
            ToyTeam(spoil=lambda r, step: r[:4]),
            "It must give five dictionaries (observations, rewards, terminated",
        ),
        (
            ToyTeam(spoil=change(0, "b", None)),
            "give an observation to every agent in `agents`. At step 2 after reset(seed=0)",
        ),
        (
            ToyTeam(spoil=change(0, "b", NAN_SEEN)),
            "It must give finite observations. At step 2 after reset(seed=0): Agent 'b'",
        ),
        (
            ToyTeam(spoil=change(0, "b", np.ones(3))),
            "give observations of their space. At step 2 after reset(seed=0): Agent 'b'",
        ),
        (undeclared_mask_key(), "Agent 'a' observes no Dict with 'observations'."),
        (
            TakingTurns({"spoil": lambda r, step: [seen.__imul__(-1) for seen in r[0].values()] and None}),
            "It must give observations within the bounds of their space. At step 1 after reset(seed=0): Agent 'y'",
        ),
        (ToyTeam(spoil=change(1, "b", None)), "It must give a reward to every agent that acted. At step 2"),
        (ToyTeam(spoil=change(1, "b", np.nan)), "It must give finite numbers as rewards. At step 2"),
        (ToyTeam(spoil=change(1, "b", np.ones(1))), "It must give finite numbers as rewards. At step 2"),
        (
            ToyTeam(spoil=change(2, "b", None)),
            "give a flag to every agent that acted, in terminated. At step 2",
        ),
        (
            ToyTeam(spoil=change(3, "b", None)),
            "give a flag to every agent that acted, in truncated. At step 2",
        ),
        (
            TakingTurns({"spoil": change(2, "__all__", None)}),
            "It must give '__all__' in terminated. At step 2",
        ),
        (
            TakingTurns({"spoil": change(3, "__all__", None)}),
            "It must give '__all__' in truncated. At step 2",
        ),
        (TakingTurns({"spoil": change(0, "w", np.ones(1))}), "all agents that may ever appear. At step 2"),
        (forgets_to_leave(), "take from `agents` exactly those who terminated or were truncated. At step 2"),
        (leaves_unsaid(), "take from `agents` exactly those who terminated or were truncated. At step 2"),
        (revived(), "leave out who has terminated or been truncated. At step 3"),
        (
            ToyTeam(masks="info", spoil=change(4, "b", {})),
            "It must give an action mask at every step, once there is one. At step 2 after reset(seed=0): Agent 'b'",
        ),
        (
            ToyTeam(masks="info", spoil=change(4, "b", {"action_mask": np.ones(2)})),
            "It must give action masks with one entry per choice. At step 2",
        ),
        (
            ToyTeam(masks="info", spoil=change(4, "b", {"action_mask": np.zeros(3)})),
            "It must leave every living agent a legal action. At step 2",
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


def test_several_defects_are_told_at_once() -> None:
    def spoil(results: tuple[dict, ...], step: int) -> None:
        results[0]["a"] = NAN_SEEN
        results[1]["b"] = np.inf

    with pytest.raises(JointEnvError) as caught:
        check_joint_env(ToyTeam(spoil=spoil))
    assert str(caught.value).count("\n- It must") == 2
