"""Every kind of team can be trained, and its restored policy takes legal actions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gymnasium import spaces
from ray.rllib.core import DEFAULT_MODULE_ID
from toy_envs import TakingTurns, ToyTeam

from rllib_seqmarl import JointPolicy, MATConfig, make_joint_env

pytestmark = pytest.mark.usefixtures("ray_cluster")

D2, D3 = spaces.Discrete(2), spaces.Discrete(3)
BOX = spaces.Box(-2.0, 3.0, (2,))


def discrete_and_masked(**_: Any) -> ToyTeam:
    return ToyTeam([D3, D2, D3], obs_sizes=[2, 5, 1], masks="info", deaths={"b": 3})


def masked_in_observations(**_: Any) -> ToyTeam:
    return ToyTeam([D3, D3], masks="observation")


def multi_component(**_: Any) -> ToyTeam:
    return ToyTeam([spaces.MultiDiscrete([3, 2]), D2, spaces.MultiBinary(3)], absent=("b",))


def continuous(**_: Any) -> ToyTeam:
    return ToyTeam([BOX, spaces.Box(0.0, 1.0, (1,)), BOX], deaths={"c": 4})


def single_agent(**_: Any) -> ToyTeam:
    return ToyTeam([D3])


# name -> environment, env_config, options of the joint environment
TEAMS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "discrete, masked, dying": (discrete_and_masked, {}, {}),
    "masks in observations": (masked_in_observations, {}, {}),
    "several components, absent": (multi_component, {}, {}),
    "continuous, dying": (continuous, {}, {}),
    "one agent": (single_agent, {}, {}),
    "RLlib, taking turns": (lambda config: TakingTurns(**config), {}, {}),
    "with global state": (discrete_and_masked, {}, {"global_state": True}),
    "without ids, summed": (continuous, {}, {"agent_ids": False, "team_reward": "sum"}),
    "unequal spaces": ("mpe/simple_speaker_listener", {}, {}),
    "continuous particles": ("mpe/simple_spread", {"continuous_actions": True}, {}),
}


@pytest.mark.parametrize("team", TEAMS)
def test_a_team_trains_and_its_policy_acts(team: str, tmp_path: Path) -> None:
    env, env_config, options = TEAMS[team]
    algo = (
        MATConfig()
        .environment(env, env_config=env_config)
        .env_runners(num_envs_per_env_runner=3)
        .training(train_batch_size_per_learner=60, num_epochs=2)
        .joint_env(**options)
        .network(embed_dim=16)
        .debugging(seed=0)
        .build_algo()
    )
    for _ in range(2):
        learner = algo.train()["learners"][DEFAULT_MODULE_ID]
        assert all(math.isfinite(learner[key]) for key in ("policy_loss", "vf_loss", "entropy", "approx_kl"))
    assert learner["entropy"] > 0.0
    algo.save_to_path(str(tmp_path))
    algo.stop()

    joint = make_joint_env(env, env_config, **options)
    has_state = "global_state" in options
    play(JointPolicy.from_checkpoint(tmp_path), joint.env, lambda: joint.env.state() if has_state else None)


def play(policy: JointPolicy, env: Any, state: Callable[[], Any]) -> None:
    """Play an episode through the environment's own API and check that every action is legal."""
    observations, infos = env.reset(seed=0)
    for _ in range(30):
        masks = {agent: info["action_mask"] for agent, info in infos.items() if "action_mask" in info}
        actions = policy.act(observations, masks or None, state=state(), explore=True)
        assert actions.keys() == observations.keys()
        for agent, action in actions.items():
            space_of = env.get_action_space if isinstance(env, TakingTurns) else env.action_space
            assert space_of(agent).contains(action), (agent, action)
            mask = masks.get(agent)
            if mask is None and isinstance(observations[agent], dict):
                mask = observations[agent].get("action_mask")
            assert mask is None or mask[action], (agent, action)
        observations, _, terminated, truncated, infos = env.step(actions)
        done = getattr(env, "agents", None) == [] or terminated.get("__all__") or truncated.get("__all__")
        if done:
            return
        done_agents = {agent for agent in observations if terminated.get(agent) or truncated.get(agent)}
        observations = {agent: obs for agent, obs in observations.items() if agent not in done_agents}
