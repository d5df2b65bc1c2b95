"""Tests that MaMuJoCo's steps match the package for all observation options, and of disabled joints."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium_robotics")

from gymnasium_robotics.envs.multiagent_mujoco import MultiAgentMujocoEnv, obsk

from rllib_seqmarl.envs import make_env, make_joint_env
from rllib_seqmarl.envs.suites.mamujoco import SUITE, make_mamujoco
from rllib_seqmarl.envs.suites.mamujoco_joints import SINGLE_JOINT_TASKS

PUBLISHED = [task for task in SUITE.tasks if task not in SINGLE_JOINT_TASKS]


def published(task: str, **options: Any) -> MultiAgentMujocoEnv:
    domain, factorisation = task.replace("_", "|").split("-")
    env = MultiAgentMujocoEnv(domain, factorisation, **options)
    # Three of Pusher's joints share a name in the package, so their order would be arbitrary.
    env.k_dicts = [
        {k: sorted(joints, key=lambda joint: (joint.label, joint.act_ids)) for k, joints in by_distance.items()}
        for by_distance in env.k_dicts
    ]
    return env


def assert_same_steps(ours: Any, theirs: Any, steps: int, seed: int = 7) -> None:
    """Step both with the same random actions, which may be out of bounds, across episodes."""
    rng = np.random.default_rng(seed)
    (obs, _), (their_obs, _) = ours.reset(seed=seed), theirs.reset(seed=seed)
    for _ in range(steps):
        assert obs.keys() == their_obs.keys()
        for agent, entries in their_obs.items():
            assert ours.observation_space(agent).contains(obs[agent])
            np.testing.assert_array_equal(obs[agent], np.float32(entries), err_msg=agent)
        np.testing.assert_array_equal(ours.state(), np.float32(theirs.state()))
        if not theirs.agents:
            (obs, _), (their_obs, _) = ours.reset(), theirs.reset()
            continue
        scale = 1.5 * theirs.action_space(theirs.agents[0]).high[0]
        actions = {
            agent: rng.uniform(-scale, scale, theirs.action_space(agent).shape).astype(np.float32)
            for agent in theirs.agents
        }
        obs, *rest, infos = ours.step(actions)
        their_obs, *their_rest, their_infos = theirs.step(actions)
        assert rest == their_rest
        assert infos.keys() == their_infos.keys()
        assert ours.agents == theirs.agents


@pytest.mark.parametrize("agent_obsk", [0, 1, 3])
@pytest.mark.parametrize("task", PUBLISHED)
def test_steps_match_the_package(task: str, agent_obsk: int) -> None:
    options = {"agent_obsk": agent_obsk, "max_episode_steps": 12}
    ours, theirs = make_mamujoco(task, **options), published(task, **options)
    assert ours.possible_agents == theirs.possible_agents
    for agent in ours.possible_agents:
        assert ours.action_space(agent) == theirs.action_space(agent)
        assert ours.observation_space(agent).shape == theirs.observation_space(agent).shape
    assert_same_steps(ours, theirs, 30)


def test_velocities_beyond_the_bounds_are_clipped_as_in_the_package() -> None:
    """Random play seldom reaches Hopper's velocity bounds of 10."""
    ours, theirs = make_mamujoco("Hopper-3x1"), published("Hopper-3x1")
    ours.reset(seed=0), theirs.reset(seed=0)
    for robot in (ours.robot, theirs.single_agent_env):
        robot.unwrapped.data.qvel[:] = [-30.0, 30.0, 5.0, -30.0, 30.0, 5.0]
    observations = ours._read_observations()
    assert max(obs.max() for obs in observations) == 10.0
    for obs, their_obs in zip(observations, theirs._get_obs().values(), strict=True):
        np.testing.assert_array_equal(obs, np.float32(their_obs))


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("HalfCheetah-6x1", {"agent_obsk": 1, "local_categories": [["qvel"], ["qpos", "qvel"]]}),
        ("HalfCheetah-2x3", {"agent_obsk": 0, "global_categories": ["qvel"]}),
        ("Humanoid-9|8", {"agent_obsk": 0, "local_categories": [["cvel", "qpos"]], "global_categories": []}),
        ("Ant-4x2", {"forward_reward_weight": 3, "ctrl_cost_weight": 0.1, "healthy_z_range": (0.3, 0.9)}),
    ],
)
def test_options_match_the_package(task: str, options: dict[str, Any]) -> None:
    ours, theirs = make_mamujoco(task, **options), published(task, **options)
    assert_same_steps(ours, theirs, 30)


def test_every_factorisation_of_the_package_is_listed() -> None:
    branches = inspect.getsource(obsk.get_parts_and_edges).split("label in [")[1:]
    theirs = {
        f"{domain}-{factorisation}".replace("|", "_")
        for branch in branches
        for domain in re.findall(r'"(\w+)"', branch.split("]")[0])
        for factorisation in re.findall(r'partitioning == "([^"]+)"', branch)
    }
    assert theirs - {"CoupledHalfCheetah-1p1"} == {task for task in PUBLISHED if "ManySegment" not in task}


@pytest.mark.parametrize("task", SINGLE_JOINT_TASKS)
def test_single_joint_tasks_use_the_same_robot(task: str) -> None:
    ours, theirs = make_mamujoco(task), published(f"{task.split('-')[0]}-{SINGLE_JOINT_TASKS[task]}")
    count = theirs.single_agent_env.action_space.shape[0]
    assert len(ours.possible_agents) == count
    ours.reset(seed=1), theirs.reset(seed=1)
    whole = np.linspace(-0.3, 0.3, count)
    _, rewards, *_ = ours.step({f"agent_{i}": np.float32([torque]) for i, torque in enumerate(whole)})
    _, their_rewards, *_ = theirs.step(theirs.map_global_action_to_local_actions(np.float32(whole)))
    assert set(rewards.values()) == set(their_rewards.values())
    np.testing.assert_array_equal(ours.state(), np.float32(theirs.state()))


def test_segments_can_be_divided_freely() -> None:
    env = make_env("mamujoco/ManySegmentSwimmer-3x1")
    assert [env.observation_space(agent).shape for agent in env.possible_agents] == [(3,), (4,), (3,)]
    with pytest.raises(ValueError, match=r"ManySegmentSwimmer-\{agents\}x\{joints of each\}"):
        make_env("mamujoco/ManySegmentSwimmer-1x1")


def test_agents_can_observe_the_full_state() -> None:
    env = make_mamujoco("HalfCheetah-6x1", agent_obsk=None)
    observations, _ = env.reset(seed=0)
    for obs in observations.values():
        np.testing.assert_array_equal(obs, env.state())
    assert env.state_space.contains(env.state())
    assert np.any(env.state())


@pytest.mark.parametrize("task", ["HalfCheetah-2x3", "Humanoid-9_8"])
def test_disabled_joints_get_no_control(task: str) -> None:
    disabled, plain = make_mamujoco(task, disabled_joints=[2, 4]), published(task)
    disabled.reset(seed=3), plain.reset(seed=3)
    ones = {agent: disabled.action_space(agent).high for agent in disabled.possible_agents}
    whole = plain.map_local_actions_to_global_action(ones)
    whole[[2, 4]] = 0.0
    _, rewards, *_ = disabled.step(ones)
    _, their_rewards, *_ = plain.step(plain.map_global_action_to_local_actions(whole))
    control = disabled.robot.unwrapped.data.ctrl
    np.testing.assert_array_equal(np.flatnonzero(control == 0.0), [2, 4])
    np.testing.assert_array_equal(control, plain.single_agent_env.unwrapped.data.ctrl)
    assert set(rewards.values()) == set(their_rewards.values())


def test_falling_terminates_and_the_time_limit_truncates() -> None:
    still = make_mamujoco("Ant-4x2", max_episode_steps=5, terminate_when_unhealthy=False)
    falling = make_mamujoco("Ant-4x2", max_episode_steps=5, healthy_z_range=[5.0, 6.0])
    for env, steps, is_terminated in ((still, 5, False), (falling, 1, True)):
        env.reset(seed=0)
        for _ in range(steps):
            assert env.agents
            no_torque = {agent: np.zeros(2, np.float32) for agent in env.agents}
            _, _, terminated, truncated, _ = env.step(no_torque)
        assert not env.agents
        assert set(terminated.values()) == {is_terminated}
        assert set(truncated.values()) == {not is_terminated}


@pytest.mark.parametrize(("task", "steps"), [("Reacher-2x1", 50), ("Pusher-3p", 100), ("HalfCheetah-6x1", 1000)])
def test_default_time_limits(task: str, steps: int) -> None:
    assert make_mamujoco(task).robot.spec.max_episode_steps == steps


def test_layer_norm_subsumes_the_published_standardisation() -> None:
    """MAT's published environment standardises an agent's observation and id; ours leaves this to the encoder."""
    env = make_joint_env("mamujoco/HalfCheetah-6x1", {"agent_obsk": 0})
    rows = [env.reset(seed=0)[0]["observations"]]
    for _ in range(20):
        rows.append(env.step(env.action_space.sample())[0]["observations"])
    obs = torch.from_numpy(np.stack(rows))  # (21, 6, 7 + 6)
    standardised = (obs - obs.mean(-1, keepdim=True)) / obs.std(-1, correction=0, keepdim=True)
    norm = torch.nn.LayerNorm(obs.shape[-1])
    torch.testing.assert_close(norm(obs), norm(standardised), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_are_independent(copied: Callable[[Any], Any]) -> None:
    env = make_mamujoco("ManySegmentSwimmer-2x1", disabled_joints=[1], max_episode_steps=3)
    twin = copied(env)
    env.reset(seed=0)
    obs, _ = env.reset(seed=2)
    twin_obs, _ = twin.reset(seed=2)
    np.testing.assert_array_equal(np.concatenate([*twin_obs.values()]), np.concatenate([*obs.values()]))
    ones = dict.fromkeys(env.agents, np.ones(1, np.float32))
    for _ in range(3):
        _, _, _, truncated, _ = twin.step(ones)
    assert all(truncated.values())
    np.testing.assert_array_equal(twin.robot.unwrapped.data.ctrl, [1.0, 0.0])
    np.testing.assert_array_equal(np.concatenate(env._read_observations()), np.concatenate([*obs.values()]))


def test_rendering() -> None:
    try:
        env = make_mamujoco("HalfCheetah-6x1", render_mode="rgb_array", width=64, height=48)
    except ValueError as error:
        pytest.skip(str(error))
    env.reset(seed=0)
    image = env.render()
    env.close()
    assert (image.shape, image.dtype) == ((48, 64, 3), np.uint8)
    assert image.std() > 10


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_missing_opengl_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "none of them")
    with pytest.raises(ValueError, match=r"no OpenGL .* MUJOCO_GL to egl"):
        make_mamujoco("HalfCheetah-6x1", render_mode="rgb_array")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"disabled_joints": [6]}, r"disabled_joints=\[6\] .* from 0 to 5 \(0 bthigh, 1 bshin, .*5 ffoot\)"),
        ({"disabled_joints": 2}, r"disabled_joints=2 "),
        ({"agent_obsk": -1}, r"agent_obsk=-1 .*>= 0"),
        ({"agent_obsk": 0, "local_categories": [["qpos"], ["qpos"]]}, r"2 lists: .* agent_obsk=0"),
        ({"agent_obsk": 0, "local_categories": [["qvle"]]}, r"'qvle' .*'qvel'"),
        ({"global_categories": ["cfrc_ext"]}, r"'cfrc_ext' .*qfrc_actuator, qpos, qvel"),
        ({"agent_obsk": None, "global_categories": ["qpos"]}, r"agent_obsk=None"),
        ({"max_episode_steps": 0}, r"max_episode_steps=0 .*>= 1"),
        ({"render_mode": "human"}, r"render_mode='human'"),
        ({"forward_reward": 2}, r"'forward_reward_weight'"),
        ({"healthy_reward": 1.0}, r"mamujoco/HalfCheetah-6x1 has no option 'healthy_reward'"),
        ({"reset_noise_scale": -1}, r"reset_noise_scale=-1 .*>= 0"),
        ({"exclude_current_positions_from_observation": False}, r"has no option"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_env("mamujoco/HalfCheetah-6x1", options)


def test_invalid_ranges_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"healthy_z_range=\[1, 0.5\] is not a range"):
        make_env("mamujoco/Ant-4x2", {"healthy_z_range": [1, 0.5]})
