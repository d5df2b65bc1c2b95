"""Two Shadow Hands and a double door, in MuJoCo: door tasks after Bi-DexHands (Chen et al. 2022, arXiv 2206.08686).

Bi-DexHands is written for Isaac Gym, NVIDIA's simulator, which requires a GPU and Python 3.8 or older. These tasks
follow its published scene, actions, rewards, terminations and episode length, and run wherever MuJoCo does. Besides the
simulator, three things differ: the door consists of boxes and capsules; its leaves start at rest (published: when
closing, they start at 1.57 rad/s, against their stops); and observations contain positions and velocities, but neither
joint forces nor fingertip orientations. So returns are not comparable between the two. `dexhands-isaac` runs the
original.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.options import check_choice, check_options
from rllib_seqmarl.envs.parallel_env import BaseParallelEnv
from rllib_seqmarl.envs.suite import Suite
from rllib_seqmarl.envs.suites.dexhands_model import (
    CONTROL_HZ,
    FINGERS,
    FULLY_OPEN,
    HANDS,
    N_ACTIONS,
    N_JOINTS,
    SUBSTEPS,
    build_model,
)
from rllib_seqmarl.envs.suites.mujoco_rendering import select_gl_backend, try_to_render

# Agents of a hand and the sizes of their actions, in order: base (6) and wrist (2), then the fingers.
AGENTS: dict[str, dict[str, int]] = {
    "hands": {"hand": N_ACTIONS},
    "fingers": {"palm": 8, "index": 3, "middle": 3, "ring": 3, "little": 4, "thumb": 5},
}
OWN_SIZE = N_JOINTS + (6 + N_JOINTS) + 3 * len(FINGERS) + len(FINGERS) + 3 + 4 + N_ACTIONS  # 107
DOOR_SIZE = 10
BOUND = 5.0  # of all observations
VELOCITY_SCALE = 0.2
TOUCH_SCALE = 0.1  # per newton
NEAR = 0.5  # maximum sum of a hand's five finger distances to its handle for the door's part of the reward [m]
SUCCESS_SEPARATION = 0.5  # lateral distance between the handles at success [m]


@dataclass(frozen=True)
class _Task:
    """Parameters in which the tasks differ.

    Attributes:
        summary: One-sentence description.
        starts_open: Whether the door starts open and has to be closed.
        offset: Constant part of the reward.
        too_far: Sum of a hand's five finger distances to its handle that terminates the episode [m].
    """

    summary: str
    starts_open: bool
    offset: float
    too_far: float

    def is_solved(self, separation: float) -> bool:
        return separation < SUCCESS_SEPARATION if self.starts_open else separation > SUCCESS_SEPARATION

    def door_reward(self, separation: float) -> float:
        return 1 - 2 * separation if self.starts_open else 2 * separation


TASKS = {
    "door_open_inward": _Task("Two hands pull a shut double door open, towards them.", False, 2.0, 1.5),
    "door_close_outward": _Task("Two hands reach through an open double door and pull it shut.", True, 6.0, 3.0),
}


class DexHands(BaseParallelEnv):
    """A door task for two hands.

    Each step is 1/60 s. The episode is truncated after `episode_length` steps, and terminated when a hand is too far
    from its handle (the sum of its five finger distances reaches 1.5 m when opening, 3 m when closing). Success means
    that the handles are more (opening) or less (closing) than 0.5 m apart laterally. It does not end the episode; `win`
    reports at the end whether it was ever reached. A spring pulls the leaves back to their initial positions. Both
    hands are right hands, as published; the left one is turned over.

    The reward is the same for all agents. With d the sum of a hand's finger distances and y the lateral distance of the
    handles: opening, `2 - d_right - d_left + 2 y`; closing, `6 - d_right - d_left + (1 - 2 y)`. The last term is only
    added while both d are below 0.5 m.

    Actions of a hand, in -1..1: force on its base along x, y, z (3), torque about the same axes (3), then target angles
    of its 20 actuated joints within their ranges: wrist 2, index 3, middle 3, ring 3, little finger 4, thumb 5.

    Observations, float32 (117,), within -5..5. The agent's hand (107): joint angles, scaled from their ranges to -1..1
    (24); 0.2 x velocities of base (linear 3, angular 3 in its own frame) and joints (24); positions of the fingertips
    (5 x 3) and 0.1 x the forces on them [N] (5); position (3) and quaternion (4) of the base; its last action (26).
    The door (10): hinge angles (2), 0.2 x their velocities (2), positions of the handles (2 x 3); right first. Agents
    of the same hand have the same observation. The global state, float32 (224,), contains both hands and the door.

    Args:
        task: "door_open_inward" or "door_close_outward".
        agents: "hands": two agents, right_hand and left_hand, of 26 actions; or "fingers": twelve, the palm (base and
            wrist, 8 actions) and the fingers (3, 3, 3, 4, 5) of each hand.
        episode_length: Steps of an episode, >= 1.
        reset_noise: Maximum initial deviation of joints from the stretched hand, as a fraction of their range, 0 to 1.
            With 0, as published, all episodes start identically.
        render_mode: "rgb_array" or None.

    Raises:
        ValueError: An option has an invalid value, or there is no OpenGL to render with.
    """

    metadata = {"name": "dexhands", "render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}

    def __init__(
        self,
        task: str,
        *,
        agents: str = "hands",
        episode_length: int = 250,
        reset_noise: float = 0.0,
        render_mode: str | None = None,
    ):
        check_choice("task", task, TASKS)
        check_choice("agents", agents, AGENTS)
        check_options(DexHands, locals(), {"episode_length": 1, "reset_noise": (0, 1)})
        if render_mode:
            select_gl_backend()
        import mujoco

        self.task = TASKS[task]
        self.episode_length = episode_length
        self.reset_noise = reset_noise
        self.model = model = build_model(starts_open=self.task.starts_open)
        self.data = mujoco.MjData(model)

        sizes = {f"{hand}_{part}": size for hand in HANDS for part, size in AGENTS[agents].items()}
        observation_space = spaces.Box(-BOUND, BOUND, (OWN_SIZE + DOOR_SIZE,), np.float32)
        action_spaces = [spaces.Box(-1, 1, (size,), np.float32) for size in sizes.values()]
        super().__init__(sizes, [observation_space] * len(sizes), action_spaces, render_mode)
        self._hand_of = np.array([HANDS.index(agent.partition("_")[0]) for agent in sizes])

        low, high = model.actuator_ctrlrange.T
        self._control_centre, self._control_reach = (high + low) / 2, (high - low) / 2
        self._joint_low, self._joint_high = model.jnt_range[1 : 1 + N_JOINTS].T  # the same for both hands
        sites = [f"{hand}_{finger}_tip" for hand in HANDS for finger in FINGERS] + [f"{hand}_handle" for hand in HANDS]
        self._site_ids = np.array([model.site(site).id for site in sites])
        self._obs_indices, self._obs_offset, self._obs_scale = self._build_observation_map()
        self._start = model.qpos0.copy()
        if self.task.starts_open:
            self._start[-2:] = FULLY_OPEN
        self._action = np.zeros(len(HANDS) * N_ACTIONS)
        self._state = np.zeros(len(HANDS) * OWN_SIZE + DOOR_SIZE, np.float32)
        self._steps, self._solved = 0, False
        self._rng = np.random.default_rng()
        self._renderer = try_to_render(lambda: mujoco.Renderer(model, height=480, width=640)) if render_mode else None

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        import mujoco

        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents = self.possible_agents[:]
        self._steps, self._solved = 0, False
        self._action[:] = 0.0
        data = self.data
        mujoco.mj_resetData(self.model, data)
        data.qpos[:] = self._start
        if self.reset_noise:
            reach = self.reset_noise * (self._joint_high - self._joint_low)
            noise = self._rng.uniform(-reach, reach, (len(HANDS), N_JOINTS))
            angles = data.qpos[:-2].reshape(len(HANDS), -1)[:, -N_JOINTS:]
            angles[:] = np.clip(noise, self._joint_low, self._joint_high)
        mujoco.mj_step1(self.model, data)
        return self._observe(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        import mujoco

        agents = self.agents
        joint = np.concatenate([actions[agent] for agent in agents])
        self._action = np.minimum(np.maximum(joint, -1.0), 1.0)
        data = self.data
        data.ctrl[:] = self._control_centre + self._control_reach * self._action
        # A MuJoCo step has two halves: derived quantities, then integration. Ending with the first half of the next
        # step makes all observed quantities consistent with the current positions.
        mujoco.mj_step2(self.model, data)
        mujoco.mj_step(self.model, data, SUBSTEPS - 1)
        mujoco.mj_step1(self.model, data)
        self._steps += 1

        sites = data.site_xpos[self._site_ids]
        handles = sites[-2:]
        gaps = sites[:-2].reshape(2, -1, 3) - handles[:, None]  # (2, 5, 3), from a hand's handle to its fingertips
        right, left = np.sqrt((gaps * gaps).sum(-1)).sum(-1).tolist()
        separation = abs(float(handles[0, 1] - handles[1, 1]))
        task = self.task
        self._solved |= task.is_solved(separation)
        reward = task.offset - right - left
        if max(right, left) < NEAR:
            reward += task.door_reward(separation)
        terminated = max(right, left) >= task.too_far
        truncated = not terminated and self._steps >= self.episode_length
        info = {"win": float(self._solved)} if terminated or truncated else {}
        infos = {agent: info.copy() for agent in agents}
        return self.end_step(self._observe(), dict.fromkeys(agents, reward), terminated, truncated, infos)

    def state(self) -> np.ndarray:
        return self._state

    def render(self) -> np.ndarray | None:
        if self._renderer is None:
            return None
        self._renderer.update_scene(self.data, camera="view")
        return self._renderer.render()

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _observe(self) -> dict[str, np.ndarray]:
        """Return the observations of all agents and update the global state."""
        data = self.data
        simulated = np.concatenate((data.qpos, data.qvel, data.sensordata, data.site_xpos.ravel(), self._action))
        observations = (simulated[self._obs_indices] - self._obs_offset) * self._obs_scale  # (2, 117)
        observations = np.minimum(np.maximum(observations, -BOUND), BOUND).astype(np.float32)
        self._state = np.concatenate((observations[0, :OWN_SIZE], observations[1]))
        return dict(zip(self.possible_agents, observations[self._hand_of], strict=True))

    def _build_observation_map(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the indices into `simulated` of `_observe`, the offsets and the scales of each hand's observation.

        Each is (2, 117).
        """
        model, n = self.model, len(HANDS)
        sizes = (model.nq, model.nv, model.nsensordata, 3 * model.nsite, n * N_ACTIONS)
        positions, velocities, sensors, sites, actions = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
        tips, handles = np.split(sites.reshape(-1, 3)[self._site_ids].ravel(), [-3 * n])
        middle, reach = (self._joint_high + self._joint_low) / 2, (self._joint_high - self._joint_low) / 2
        table = []
        for hand in range(n):  # the hinges are the last two degrees of freedom
            pose, angles = np.split(positions[:-2].reshape(n, -1)[hand], [7])
            parts = (
                (angles, middle, 1 / reach),
                (velocities[:-2].reshape(n, -1)[hand], 0.0, VELOCITY_SCALE),
                (tips.reshape(n, -1)[hand], 0.0, 1.0),
                (sensors.reshape(n, -1)[hand, -len(FINGERS) :], 0.0, TOUCH_SCALE),
                (pose, 0.0, 1.0),
                (actions.reshape(n, -1)[hand], 0.0, 1.0),
                (positions[-2:], 0.0, 1.0),
                (velocities[-2:], 0.0, VELOCITY_SCALE),
                (handles, 0.0, 1.0),
            )
            table.append(np.concatenate([np.stack(np.broadcast_arrays(*part)) for part in parts], axis=1))
        indices, offset, scale = np.stack(table, axis=1)
        return indices.astype(np.intp), offset, scale


SUITE = Suite(
    name="dexhands",
    tasks={name: task.summary for name, task in TASKS.items()},
    make=DexHands,
    requires=("mujoco", "gymnasium_robotics"),
    extra="dexhands",
)
