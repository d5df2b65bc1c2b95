"""Tests that errors name the environment, the step, the agent and a remedy."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from toy_envs import TakingTurns, ToyTeam

from rllib_seqmarl.envs.errors import JointEnvError
from rllib_seqmarl.envs.joint_env import JointEnv

D3 = spaces.Discrete(3)
D3S = [D3, D3]


def change(part: int, agent: str, value: Any, at: int = 2) -> Any:
    """Set `value` for one agent in one of the five results of step `at`; None removes the entry."""

    def spoil(results: tuple[dict, ...], step: int) -> None:
        if step == at:
            results[part].pop(agent) if value is None else results[part].update({agent: value})

    return spoil


def replace(part: int, value: Any, at: int = 2) -> Any:
    """Replace one of the five results of step `at` by `value`."""
    return lambda results, step: (*results[:part], value, *results[part + 1 :]) if step == at else None


def play(team: Any, **options: Any) -> None:
    env = JointEnv(team, **options)
    env.reset(seed=0)
    for _ in range(4):
        env.step([0] * env.layout.n_agents)


NAN_OBSERVATION = np.array([1.0, np.nan], np.float32)


BROKEN = [
    (
        ToyTeam(spoil=change(0, "b", NAN_OBSERVATION)),
        "toy_team, step 2: agent 'b': its observation is nan at entry 1.",
    ),
    (
        ToyTeam(spoil=change(0, "a", -1 / NAN_OBSERVATION * np.inf)),
        "step 2: agent 'a': its observation is -inf at entry 0.",
    ),
    (
        ToyTeam(spoil=change(0, "a", np.ones(3))),
        "step 2: agent 'a': its observation does not fit its space",
    ),
    (ToyTeam(spoil=change(0, "a", np.ones(1))), "it has 1 entries, not 2"),
    (
        ToyTeam(spoil=change(0, "b", None)),
        "step 2: agent 'b' is missing: it is in `agents`, so it acts next",
    ),
    (ToyTeam(spoil=change(1, "b", float("nan"))), "toy_team, step 2: agent 'b': its reward is nan."),
    (ToyTeam(spoil=change(1, "b", float("inf"))), "step 2: agent 'b': its reward is inf."),
    (ToyTeam(spoil=change(1, "b", [1.0, [2.0]])), "step 2: agent 'b': its reward must be a number, not [1.0, [2.0]]."),
    (ToyTeam(spoil=change(1, "b", 10**400)), "step 2: agent 'b': its reward must be a number, not 1000"),
    (ToyTeam(spoil=change(3, "a", [0, [1]])), "step 2: agent 'a': truncated must be True or False, not [0, [1]]."),
    (ToyTeam(length=2, infos={"won": [1, [0]]}), "step 2: the win in infos under 'won' must be a number, not [1, [0]]"),
    (
        ToyTeam(masks="info", spoil=change(4, "b", {"action_mask": [[1, 0], [1]]})),
        "step 2: agent 'b': its action mask is [[1, 0], [1]], not an array.",
    ),
    (
        ToyTeam(masks="observation", spoil=change(0, "a", {"obs": np.ones(2), "action_mask": np.ones(3)})),
        "step 2: agent 'a': its observation does not fit its space Dict(",
    ),
    (
        ToyTeam(spoil=change(0, "a", 0.5)),
        "step 2: agent 'a': its observation does not fit its space Box(2,): it is 0.5.",
    ),
    (ToyTeam(spoil=change(1, "b", [1.0, 2.0])), "step 2: agent 'b': its reward must be a number, not [1.0, 2.0]."),
    (
        ToyTeam(masks="info", spoil=change(4, "b", {"action_mask": np.zeros(3)})),
        "step 2: agent 'b': its action mask forbids every action. Leave a living agent at least one",
    ),
    (
        ToyTeam(masks="info", spoil=change(4, "b", {"action_mask": np.ones(4)})),
        "step 2: agent 'b': its action mask has 4 entries, not 3.",
    ),
    (ToyTeam(masks="info", spoil=change(4, "b", {})), "step 2: agent 'b' has no action mask at this step."),
    (
        TakingTurns({"spoil": change(0, "w", np.ones(1))}),
        "TakingTurns, step 2: agent 'w' has an observation but is not in `possible_agents` ('x', 'y', 'z').",
    ),
    (ToyTeam(spoil=change(1, "b", None)), "step 2: agent 'b' acted but has no reward. Return one"),
    (ToyTeam(rewards=lambda agent, step: None), "step 1: agent 'a': its reward must be a number, not None."),
    (ToyTeam(rewards=lambda agent, step: "1.0"), "step 1: agent 'a': its reward must be a number, not '1.0'."),
    (ToyTeam(spoil=change(1, "w", 1.0)), "step 2: agent 'w' has a reward but is not in `possible_agents` ('a', 'b')."),
    (ToyTeam(spoil=replace(1, 2.0)), "step 2: step() must return rewards as a dictionary with one entry per agent, n"),
    (ToyTeam(spoil=lambda r, step: r[:4]), "step 1: step() must return five dictionaries, (observations, rewards,"),
    (ToyTeam(spoil=change(2, "b", None)), "step 2: terminated has no entry for 'b'. Return True or False at"),
    (ToyTeam(spoil=change(3, "b", None)), "step 2: truncated has no entry for 'b'."),
    (ToyTeam(spoil=change(3, "a", "no")), "step 2: agent 'a': truncated must be True or False, not 'no'."),
    (ToyTeam(spoil=change(3, "a", np.zeros(2))), "step 2: agent 'a': truncated must be True or False, not array"),
    (TakingTurns({"spoil": change(2, "__all__", None)}), "step 2: terminated has no entry for '__all__'."),
    (
        ToyTeam(spoil=replace(4, ["moved"])),
        "step 2: infos must be a dictionary {agent: info}, not list of 1 ['moved'].",
    ),
    (ToyTeam(spoil=change(4, "b", "moved")), "step 2: agent 'b': its info must be a dictionary, not str 'moved'."),
    (ToyTeam(spoil=change(4, "b", {"alive": "no"})), "agent 'b': its info's `alive` must be True or False, not 'no'."),
    (
        ToyTeam(spoil=change(4, "b", {"action_mask": np.ones(3)})),
        "step 2: agent 'b' has an action mask, but no agent had one at the first reset. Put masks into the infos of",
    ),
    (
        ToyTeam(masks="info", spoil=change(4, "a", {"action_mask": np.array([0.5, 1, 1])})),
        "step 2: agent 'a': its action mask has entries other than 0 and 1: [0.5, 1.0, 1.0].",
    ),
    (ToyTeam(masks="observation", spoil=change(0, "a", np.ones(2))), "step 2: agent 'a': its observation does not fit"),
    (ToyTeam(length=2, infos={"win": "blue"}), "step 2: the win in infos under 'win' must be a number, not"),
    (ToyTeam(length=2, infos={"won": [1, 0]}), "step 2: the win in infos under 'won' must be a number, not"),
    (
        ToyTeam(length=2, spoil=change(0, "b", None)),
        "step 2: agent 'b' is truncated but has no last observation, which is needed to bootstrap its value.",
    ),
    (
        TakingTurns({"length": 2, "spoil": replace(0, {})}),
        "step 2: the team is truncated but has no last observation",
    ),
]


@pytest.mark.parametrize(("team", "message"), BROKEN)
def test_errors_name_environment_step_and_agent(team: Any, message: str) -> None:
    with pytest.raises(JointEnvError, match=re.escape(message)):
        play(team)


def test_leaving_without_a_flag() -> None:
    team = ToyTeam(D3S)
    team.spoil = lambda results, step: team.agents.remove("b") if step == 2 else None
    with pytest.raises(JointEnvError, match="step 2: agent 'b' left `agents` without being terminated or truncated"):
        play(team)


def test_mask_that_forbids_everything_at_reset() -> None:
    team = ToyTeam([spaces.Discrete(1)], masks="info")  # the mask forbids its only action
    with pytest.raises(JointEnvError, match="toy_team, at reset: agent 'a': its action mask forbids every action"):
        JointEnv(team).reset()


def test_no_agents_at_reset() -> None:
    with pytest.raises(JointEnvError, match="toy_team, at reset: no agent has an observation"):
        JointEnv(ToyTeam(D3S, absent=("a", "b"))).reset()


@pytest.mark.parametrize("action", [[0, 3], [0, -1]])
def test_action_out_of_range(action: list[int]) -> None:
    env = JointEnv(ToyTeam(D3S))
    env.reset()
    with pytest.raises(JointEnvError, match=r"toy_team, step 1: agent 'b': action -?\d is out of range"):
        env.step(action)


def test_joint_action_of_wrong_shape() -> None:
    env = JointEnv(ToyTeam(D3S))
    env.reset()
    with pytest.raises(JointEnvError, match=r"step 1: a joint action has shape \(2,\), not \(3,\)"):
        env.step([0, 0, 0])


def test_step_without_a_running_episode() -> None:
    env = JointEnv(ToyTeam(D3S, length=1))
    with pytest.raises(JointEnvError, match=r"no episode is running. Call reset\(\) first"):
        env.step([0, 0])
    env.reset()
    env.step([0, 0])
    with pytest.raises(JointEnvError, match="no episode is running"):
        env.step([0, 0])


def test_environment_without_agents() -> None:
    with pytest.raises(JointEnvError, match="toy_team: there are no agents. Declare at least one in `possible_agents`"):
        JointEnv(ToyTeam([]))


def test_duplicate_agent_names() -> None:
    team = ToyTeam(D3S)
    team.possible_agents = ["a", "a"]
    with pytest.raises(JointEnvError, match="the agent name 'a' appears twice"):
        JointEnv(team)


def test_incompatible_action_spaces() -> None:
    with pytest.raises(JointEnvError, match="toy_team: the action spaces cannot be joined: 'a' acts in Discrete"):
        JointEnv(ToyTeam([D3, spaces.Box(-1, 1, (2,), np.float32)]))


def test_missing_global_state() -> None:
    with pytest.raises(
        JointEnvError, match=r"no global state \(no `state\(\)`, or it returns None\). Set global_state="
    ):
        JointEnv(TakingTurns(), global_state=True)


@pytest.mark.parametrize("state", [np.zeros(0), [np.zeros(3), np.zeros(2)], {"map": np.zeros(3)}])
def test_global_state_that_is_no_array(state: Any) -> None:
    team = ToyTeam()
    team.state = lambda: state
    with pytest.raises(JointEnvError, match=r"toy_team: its global state is .*Return one array of numbers"):
        JointEnv(team, global_state=True)


def test_agents_that_are_a_number() -> None:
    team = ToyTeam()
    team.possible_agents = 2
    with pytest.raises(JointEnvError, match="toy_team: its agents are 2. Set `possible_agents` to a list"):
        JointEnv(team)


def test_unknown_team_reward() -> None:
    with pytest.raises(ValueError, match="team_reward='max' is unknown. Choose one of mean, sum"):
        JointEnv(ToyTeam(), team_reward="max")
