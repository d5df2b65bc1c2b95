"""Tests that the door tasks are solvable, physically sound, and match the published rewards and terminations."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rllib_seqmarl.envs.suites import dexhands
from rllib_seqmarl.envs.suites.dexhands import TASKS, DexHands
from rllib_seqmarl.envs.suites.dexhands_model import FULLY_OPEN, HAND_ROTATION, HANDS, HINGE, build_model

pytest.importorskip("mujoco")
pytest.importorskip("gymnasium_robotics")

FORCE, TORQUE, JOINTS = slice(0, 3), slice(3, 6), slice(6, 26)
KNUCKLES, MIDDLES = [3, 6, 9, 13], [4, 7, 10, 14]  # of the four fingers, among a hand's actuated joints
INDEX_TIP = slice(54, 57)  # in an observation: after angles (24) and velocities (30)


def rotation_about_z(yaw: float) -> np.ndarray:
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def action_towards(env: DexHands, hand: str, position: Any, yaw: float, knuckles: float, middles: float) -> np.ndarray:
    """Return the action that moves a hand to a pose and bends its fingers. Poses are mirrored for the left hand."""
    import mujoco

    side = 1 if hand == "right" else -1
    pose = env.data.joint(f"{hand}_base").qpos
    rotation, difference, rotation_error = np.zeros(9), np.zeros(4), np.zeros(3)
    mujoco.mju_quat2Mat(rotation, pose[3:])
    target = rotation_about_z(side * yaw) @ HAND_ROTATION[hand]
    mujoco.mju_mat2Quat(difference, (target @ rotation.reshape(3, 3).T).ravel())
    mujoco.mju_quat2Vel(rotation_error, difference, 1.0)
    angles = np.zeros(20)
    angles[KNUCKLES], angles[MIDDLES] = knuckles, middles
    low, high = env.model.actuator_ctrlrange[JOINTS].T
    action = np.zeros(26, np.float32)
    action[FORCE] = 12 * (np.multiply(position, (1, side, 1)) - pose[:3])
    action[TORQUE] = 12 * rotation_error
    action[JOINTS] = (2 * angles - (high + low)) / (high - low)
    return action.clip(-1, 1)


def rotate_about_hinge(position: Any, yaw: float) -> np.ndarray:
    hinge = np.array([0, HINGE, 0])
    return rotation_about_z(yaw) @ (position - hinge) + hinge


def pull_open(step: int) -> tuple[Any, ...]:
    """Bend the fingers to hooks, move them behind the bars from outside, and pull along the arc of the leaves."""
    if step < 60:
        return (0.23 if step < 30 else 0.111, 0.2, 0.717), 0, 1.57, 0
    yaw = np.clip((step - 90) / 64, 0, 1.2)
    return rotate_about_hinge((0.111 if step < 90 else 0.125, 0.105, 0.717), yaw), yaw, 1.57, 0 if step < 90 else 1.57


def pull_shut(step: int) -> tuple[Any, ...]:
    """Put stretched fingers between leaves and bars, then move along the arc of the leaves."""
    if step < 90:
        return (0.2 if step < 40 else -0.275, 0.378, 0.683), 0, 0, 0
    yaw = np.clip((step - 90) / 67, 0, 1.4)
    return rotate_about_hinge((-0.275, 0.365, 0.683), yaw), yaw, 0.6, 0.3


SCRIPTS: dict[str, Callable[[int], tuple[Any, ...]]] = {
    "door_open_inward": pull_open,
    "door_close_outward": pull_shut,
}


def scripted_actions(env: DexHands, script: Callable[[int], tuple[Any, ...]], step: int) -> dict[str, np.ndarray]:
    return {f"{hand}_hand": action_towards(env, hand, *script(step)) for hand in HANDS}


def random_actions(env: DexHands, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {agent: rng.uniform(-1, 1, env.action_space(agent).shape).astype(np.float32) for agent in env.agents}


def published_reward(env: DexHands, task: str) -> float:
    """Compute the published reward by body names, from freshly computed kinematics."""
    import mujoco

    data = mujoco.MjData(env.model)
    data.qpos[:] = env.data.qpos
    mujoco.mj_forward(env.model, data)
    sums, handles = [], []
    for hand in HANDS:
        handle = data.site(f"{hand}_handle").xpos
        tips = []
        for finger in ("ff", "mf", "rf", "lf", "th"):
            body = data.body(f"{hand}_robot0:{finger}distal")
            tips.append(body.xpos + body.xmat.reshape(3, 3) @ (0, 0, 0.02))
        sums.append(sum(np.linalg.norm(tip - handle) for tip in tips))
        handles.append(handle)
    separation = abs(handles[0][1] - handles[1][1])
    bonus = 2 * separation if task == "door_open_inward" else 1 - 2 * separation
    return (2 if task == "door_open_inward" else 6) - sum(sums) + (bonus if max(sums) < 0.5 else 0)


@pytest.mark.parametrize("task", TASKS)
def test_scripted_hands_solve_the_task(task: str) -> None:
    env = DexHands(task)
    env.reset()
    rewards, door_angles = [], []
    for step in range(250):
        _, reward, terminated, truncated, infos = env.step(scripted_actions(env, SCRIPTS[task], step))
        assert reward["right_hand"] == reward["left_hand"] == pytest.approx(published_reward(env, task), abs=1e-9)
        assert truncated == dict.fromkeys(env.possible_agents, step == 249)
        assert not any(terminated.values())
        rewards.append(reward["right_hand"])
        door_angles.append(env.data.qpos[-2:].copy())
    assert infos == {agent: {"win": 1.0} for agent in env.possible_agents}
    assert rewards[-1] > rewards[0] + 2
    assert (door_angles[-1] > 1.1).all() if task == "door_open_inward" else (door_angles[-1] < 0.5).all()
    assert np.abs(door_angles[60] - door_angles[0]).max() < 0.01  # the door does not move before contact


@pytest.mark.parametrize("task", TASKS)
def test_a_released_door_returns_to_its_start(task: str) -> None:
    env = DexHands(task, episode_length=1000)
    env.reset()
    start = FULLY_OPEN if task == "door_close_outward" else 0.0
    idle = {agent: np.zeros(26, np.float32) for agent in env.possible_agents}
    for _ in range(100):
        env.step(idle)
    np.testing.assert_allclose(env.data.qpos[-2:], start, atol=1e-6)
    env.task = replace(env.task, too_far=np.inf)
    for hand in HANDS:
        env.data.joint(f"{hand}_base").qpos[0] += 1  # out of the way
    env.data.qpos[-2:] = 0.8
    for _ in range(400):
        env.step(idle)
    np.testing.assert_allclose(env.data.qpos[-2:], start, atol=0.02)


def test_base_controls_act_along_and_about_the_world_axes() -> None:
    env = DexHands("door_close_outward", episode_length=1000)
    env.task = replace(env.task, too_far=np.inf)
    for axis in range(3):
        for hand, sign in (("right", 1), ("left", -1)):
            env.reset()
            actions = {agent: np.zeros(26, np.float32) for agent in env.possible_agents}
            actions[f"{hand}_hand"][axis] = sign
            for _ in range(12):
                env.step(actions)
            velocity = env.data.joint(f"{hand}_base").qvel[:3]
            assert velocity[axis] * sign == pytest.approx(1.66, abs=0.1)  # 833 N against a drag of 100/s x 5 kg
            assert np.abs(np.delete(velocity, axis)).max() < 0.15
            env.reset()
            actions[f"{hand}_hand"][:] = np.eye(26)[3 + axis] * sign
            for _ in range(12):
                env.step(actions)
            spin = env.data.body(f"{hand}_base").xmat.reshape(3, 3) @ env.data.joint(f"{hand}_base").qvel[3:]
            assert spin[axis] * sign > 1.2
            assert np.abs(np.delete(spin, axis)).max() < 0.4 * spin[axis] * sign


@pytest.mark.parametrize("task", TASKS)
def test_physics_is_stable_under_random_actions(task: str) -> None:
    env, rng = DexHands(task, reset_noise=0.1), np.random.default_rng(0)
    env.task = replace(env.task, too_far=np.inf)
    for episode in range(3):
        env.reset(seed=episode)
        constant = random_actions(env, rng)  # exerts larger forces than random actions, which cancel out
        while env.agents:
            observations, *_ = env.step(constant if episode == 2 else random_actions(env, rng))
            assert all(np.isfinite(obs).all() for obs in observations.values())
            assert np.abs(env.data.qvel).max() < 100
            assert (env.data.qpos[-2:] > -0.1).all() and (env.data.qpos[-2:] < FULLY_OPEN + 0.1).all()
    assert not any(warning.number for warning in env.data.warning)


def test_hands_collide_with_each_other_and_the_door_but_not_with_themselves() -> None:
    import mujoco

    model = build_model(starts_open=False)
    data = mujoco.MjData(model)
    listed = set(zip(model.pair_geom1.tolist(), model.pair_geom2.tolist(), strict=True))

    def collisions() -> set[tuple[str, ...]]:
        mujoco.mj_forward(model, data)
        pairs = {(contact.geom1, contact.geom2) for contact in data.contact}
        pairs -= listed | {(b, a) for a, b in listed}
        return {tuple(sorted(model.geom(geom).name.split("_")[0] for geom in pair)) for pair in pairs}

    assert collisions() == set()
    data.joint("left_base").qpos[:3] = data.joint("right_base").qpos[:3]
    assert collisions() == {("left", "right")}
    mujoco.mj_resetData(model, data)
    data.joint("right_base").qpos[0] -= 0.15
    mujoco.mj_forward(model, data)
    touching = {
        name for contact in data.contact for name in (model.geom(contact.geom1).name, model.geom(contact.geom2).name)
    }
    assert "right_leaf" in touching


@pytest.mark.parametrize("task", TASKS)
def test_moving_too_far_from_the_handle_terminates(task: str) -> None:
    env = DexHands(task)
    env.reset()
    away = {agent: np.eye(1, 26, dtype=np.float32)[0] for agent in env.possible_agents}  # along x
    too_far, offset = (1.5, 2) if task == "door_open_inward" else (3, 6)
    while env.agents:
        _, rewards, terminated, truncated, infos = env.step(away)
        assert env._steps < 40
        assert any(terminated.values()) == (not env.agents)
    assert all(terminated.values()) and not any(truncated.values())
    assert infos["left_hand"] == {"win": 0.0}
    assert offset - 2 * too_far - 0.5 < rewards["left_hand"] < offset - too_far


def test_wins_persist_until_the_episode_ends() -> None:
    env = DexHands("door_open_inward", episode_length=3)
    env.reset()
    idle = {agent: np.zeros(26, np.float32) for agent in env.possible_agents}
    env.task = replace(env.task, too_far=np.inf)
    env.step(idle)
    env.data.qpos[-2:] = 1.2
    env.step(idle)
    env.data.qpos[-2:] = 0.0
    assert env.step(idle)[-1]["left_hand"] == {"win": 1.0}
    env.reset()
    for _ in range(3):
        *_, infos = env.step(idle)
    assert infos["left_hand"] == {"win": 0.0}


def test_a_step_is_four_simulator_steps_with_current_observations() -> None:
    import mujoco

    env, rng = DexHands("door_open_inward"), np.random.default_rng(3)
    env.reset()
    reference = mujoco.MjData(env.model)
    low, high = env.model.actuator_ctrlrange.T
    for _ in range(5):
        actions = random_actions(env, rng)
        joint = np.concatenate([actions["right_hand"], actions["left_hand"]]).astype(np.float64)
        reference.ctrl[:] = (low + high) / 2 + (high - low) / 2 * joint
        for _ in range(4):
            mujoco.mj_step(env.model, reference)
        observations, *_ = env.step(actions)
        np.testing.assert_allclose(env.data.qpos, reference.qpos, rtol=0, atol=1e-12)
    mujoco.mj_forward(env.model, reference)
    for hand in HANDS:
        obs = observations[f"{hand}_hand"]
        low, high = np.array([env.model.joint(f"{hand}_robot0:{name}").range for name in ("WRJ1", "THJ0")]).T
        angles = [reference.joint(f"{hand}_robot0:{name}").qpos[0] for name in ("WRJ1", "THJ0")]
        np.testing.assert_allclose((obs[[0, 23]] + 1) / 2 * (high - low) + low, angles, atol=1e-6)
        base = reference.joint(f"{hand}_base")
        np.testing.assert_allclose(obs[24:30], 0.2 * base.qvel, atol=1e-6)
        np.testing.assert_allclose(obs[30], 0.2 * reference.joint(f"{hand}_robot0:WRJ1").qvel[0], atol=1e-6)
        np.testing.assert_allclose(obs[INDEX_TIP], reference.site(f"{hand}_index_tip").xpos, atol=1e-6)
        np.testing.assert_allclose(obs[74:81], base.qpos, atol=1e-6)
        np.testing.assert_array_equal(obs[81:107], actions[f"{hand}_hand"])
        np.testing.assert_allclose(obs[107:111], [*reference.qpos[-2:], *(0.2 * reference.qvel[-2:])], atol=1e-6)
        np.testing.assert_allclose(obs[111:114], reference.site("right_handle").xpos, atol=1e-6)
        np.testing.assert_allclose(obs[114:], reference.site("left_handle").xpos, atol=1e-6)
    right, left = observations["right_hand"], observations["left_hand"]
    np.testing.assert_array_equal(env.state(), np.concatenate([right[:107], left[:107], left[107:]]))


def test_contact_forces_are_observed() -> None:
    env = DexHands("door_open_inward")
    env.reset()
    forces = []
    for step in range(130):
        observations, *_ = env.step(scripted_actions(env, pull_open, step))
        forces.append(observations["right_hand"][69:74])
    assert not np.any(forces[:55])
    assert np.max(forces[95:]) > 0.01  # more than 0.1 N


def test_finger_agents_control_the_same_hands() -> None:
    hands, fingers = DexHands("door_open_inward"), DexHands("door_open_inward", agents="fingers")
    hands.reset()
    fingers.reset()
    sizes = [fingers.action_space(agent).shape[0] for agent in fingers.agents]
    assert sizes == [8, 3, 3, 3, 4, 5] * 2
    assert fingers.agents[0] == "right_palm" and fingers.agents[-1] == "left_thumb"
    rng = np.random.default_rng(0)
    for _ in range(5):
        actions = random_actions(hands, rng)
        joint = np.concatenate([actions["right_hand"], actions["left_hand"]])
        parts = np.split(joint, np.cumsum(sizes)[:-1])
        one, reward, *_ = hands.step(actions)
        many, rewards, *_ = fingers.step(dict(zip(fingers.agents, parts, strict=True)))
        for agent, obs in many.items():
            np.testing.assert_array_equal(obs, one[f"{agent.partition('_')[0]}_hand"])
        assert set(rewards.values()) == set(reward.values())
    # A finger's actions bend that finger.
    fingers.reset()
    idle = {agent: np.zeros(fingers.action_space(agent).shape, np.float32) for agent in fingers.agents}
    for _ in range(20):
        fingers.step(idle)
    resting = fingers.data.qpos.copy()
    fingers.reset()
    for _ in range(20):
        fingers.step({**idle, "left_ring": np.array([0, 1, 1], np.float32)})
    moved = np.flatnonzero(np.abs(fingers.data.qpos - resting) > 0.2)
    names = {fingers.model.joint(int(np.flatnonzero(fingers.model.jnt_qposadr == q)[0])).name for q in moved}
    assert names and names <= {f"left_robot0:RFJ{i}" for i in range(4)}


def test_seeds() -> None:
    def play(env: DexHands, seed: int | None) -> np.ndarray:
        observations, _ = env.reset(seed=seed)
        obs = [observations["right_hand"]]
        rng = np.random.default_rng(0)
        for _ in range(5):
            obs.append(env.step(random_actions(env, rng))[0]["right_hand"])
        return np.stack(obs)

    noisy = DexHands("door_open_inward", reset_noise=0.05)
    first, following = play(noisy, 1), play(noisy, None)
    np.testing.assert_array_equal(first, play(noisy, 1))
    np.testing.assert_array_equal(following, play(noisy, None))
    np.testing.assert_array_equal(first, play(DexHands("door_open_inward", reset_noise=0.05), 1))
    assert np.abs(first[0] - play(noisy, 2)[0]).max() > 0.01
    assert not np.array_equal(first[0], following[0])
    published = DexHands("door_open_inward")
    np.testing.assert_array_equal(play(published, 1), play(published, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agents": "finger"}, "agents='finger' is unknown. Did you mean 'fingers'"),
        ({"episode_length": 0}, "episode_length=0 is out of range: give an integer >= 1"),
        ({"reset_noise": 1.5}, "reset_noise=1.5 is out of range: give a number from 0 to 1"),
        ({"render_mode": "human"}, "render_mode='human' is unknown"),
        ({"task": "door"}, "task='door' is unknown"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        DexHands(**{"task": "door_open_inward", **options})


def test_rendering() -> None:
    code = """
from rllib_seqmarl.envs.suites.dexhands import DexHands
env = DexHands("door_open_inward", render_mode="rgb_array")
env.reset()
image = env.render()
env.close()
print(image.shape, image.dtype, len(set(map(tuple, image[::8, ::8].reshape(-1, 3).tolist()))) > 20)
"""
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if "MUJOCO_GL" in done.stderr and "ValueError" in done.stderr:
        pytest.skip("no OpenGL here")
    assert done.stdout.split("\n")[0] == "(480, 640, 3) uint8 True", done.stderr


def test_missing_opengl_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import mujoco

    def fail(*_: Any, **__: Any) -> None:
        raise mujoco.FatalError("no OpenGL platform")

    monkeypatch.setattr(mujoco, "Renderer", fail)
    with pytest.raises(ValueError, match="no OpenGL platform.* MUJOCO_GL to egl .* osmesa"):
        DexHands("door_open_inward", render_mode="rgb_array")
    assert dexhands.SUITE.requires == ("mujoco", "gymnasium_robotics")
