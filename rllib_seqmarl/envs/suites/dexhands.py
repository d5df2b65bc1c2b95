"""Two Shadow Hands and a double door, in MuJoCo: door tasks after Bi-DexHands (Chen et al. 2022, arXiv 2206.08686).

Bi-DexHands is written for Isaac Gym, NVIDIA's simulator, which needs a GPU and Python 3.8 at most. These tasks follow
its published scene, actions, rewards, ends and episode length, and run wherever MuJoCo does. Another simulator plays
them, the door is made of boxes and capsules, its leaves start at rest (published: closing, they start at 1.57 rad/s,
against their stops), and agents are told where things are and how fast, but not the joints' forces, nor how fingertips
are turned. So returns should not be compared across the two. `dexhands-isaac` runs the original.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from rllib_seqmarl.envs.options import check_choice, check_number
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

# Which of a hand's actions are whose, in their order: 6 of the base and 2 of the wrist, then those of the fingers.
AGENTS: dict[str, dict[str, int]] = {
    "hands": {"hand": N_ACTIONS},
    "fingers": {"palm": 8, "index": 3, "middle": 3, "ring": 3, "little": 4, "thumb": 5},
}
OWN_SIZE = N_JOINTS + (6 + N_JOINTS) + 3 * len(FINGERS) + len(FINGERS) + 3 + 4 + N_ACTIONS  # 107
DOOR_SIZE = 10
BOUND = 5.0  # on all that is observed
VELOCITY_SCALE = 0.2
TOUCH_SCALE = 0.1  # per newton
NEAR = 0.5  # sum of a hand's five finger distances to its handle, below which the door's part of the reward counts [m]
APART = 0.5  # how far apart the handles are, sideways, at success [m]


@dataclass(frozen=True)
class _Task:
    """The parameters in which the tasks differ.

    Attributes:
        starts_open: Whether the door does, and is to be closed.
        offset: The constant part of the reward.
        too_far: Sum of a hand's five finger distances to its handle that ends the episode [m].
    """

    summary: str
    starts_open: bool
    offset: float
    too_far: float

    def is_solved(self, apart: float) -> bool:
        return apart < APART if self.starts_open else apart > APART

    def door_reward(self, apart: float) -> float:
        return 1 - 2 * apart if self.starts_open else 2 * apart


TASKS = {
    "door_open_inward": _Task("Two hands pull a shut double door open, towards them.", False, 2.0, 1.5),
    "door_close_outward": _Task("Two hands reach through an open double door and pull it shut.", True, 6.0, 3.0),
}


class DexHands(ParallelEnv):
    """One of the tasks.

    Each step is 1/60 s. The episode is truncated after `episode_length` steps, and terminated when a hand has left its
    handle behind (the sum of its five finger distances is 1.5 m opening, 3 m closing). Success, handles more (opening)
    or less (closing) than 0.5 m apart sideways, ends nothing; `win` tells at the end whether it was ever reached. A
    spring draws the leaves back to where they start. Both hands are right hands, as published; the left one is turned
    over.

    Reward, the same for all agents, where d are the sums of a hand's finger distances and y is how far apart the
    handles are sideways: opening, `2 - d_right - d_left + 2 y`; closing, `6 - d_right - d_left + (1 - 2 y)`. The last
    term only counts while both d are below 0.5 m.

    Actions, in -1..1, of a hand: force on its base along x, y, z (3), torque on it about them (3), then target angles
    of its 20 actuated joints within their ranges: wrist 2, index 3, middle 3, ring 3, little finger 4, thumb 5.

    Observations, float32 (117,), within -5..5. Of the own hand (107): joint angles within their ranges as -1..1 (24);
    0.2 x velocities of base (linear 3, angular 3 in its own frame) and joints (24); positions of the fingertips
    (5 x 3) and 0.1 x the force they feel [N] (5); position (3) and quaternion (4) of the base; its last action (26).
    Of the door (10): hinge angles (2), 0.2 x their velocities (2), positions of the handles (2 x 3); right first.
    Agents of the same hand observe the same. The global state, float32 (224,), is both hands' own and the door's.

    Args:
        task: "door_open_inward" or "door_close_outward".
        agents: "hands": two agents, right_hand and left_hand, of 26 actions; or "fingers": twelve, the palm (base and
            wrist, 8 actions) and the fingers (3, 3, 3, 4, 5) of either hand.
        episode_length: Steps of an episode, at least 1.
        reset_noise: Joints start up to this part of their range away from the stretched hand, 0 to 1. With 0, as
            published, all episodes start alike.
        render_mode: "rgb_array" or None.

    Raises:
        ValueError: An option has a wrong value, or pictures are asked for and there is no OpenGL; says what to do.
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
        check_number("episode_length", episode_length, 1)
        check_number("reset_noise", reset_noise, 0, 1, whole=False)
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        if render_mode:
            select_gl_backend()
        import mujoco

        self.task = TASKS[task]
        self.episode_length = episode_length
        self.reset_noise = reset_noise
        self.render_mode = render_mode
        self.model = model = build_model(starts_open=self.task.starts_open)
        self.data = mujoco.MjData(model)

        sizes = {f"{hand}_{part}": size for hand in HANDS for part, size in AGENTS[agents].items()}
        self.possible_agents = list(sizes)
        self.agents: list[str] = []
        self._hand_of = np.array([HANDS.index(agent.partition("_")[0]) for agent in sizes])
        self._observation_space = spaces.Box(-BOUND, BOUND, (OWN_SIZE + DOOR_SIZE,), np.float32)
        self._action_spaces = {agent: spaces.Box(-1, 1, (size,), np.float32) for agent, size in sizes.items()}

        low, high = model.actuator_ctrlrange.T
        self._control_centre, self._control_reach = (high + low) / 2, (high - low) / 2
        self._joint_low, self._joint_high = model.jnt_range[1 : 1 + N_JOINTS].T  # of either hand
        places = [f"{hand}_{finger}_tip" for hand in HANDS for finger in FINGERS] + [f"{hand}_handle" for hand in HANDS]
        self._places = np.array([model.site(place).id for place in places])
        self._observed, self._centre, self._scale = self._choose_observed()
        self._start = model.qpos0.copy()
        if self.task.starts_open:
            self._start[-2:] = FULLY_OPEN
        self._action = np.zeros(len(HANDS) * N_ACTIONS)
        self._state = np.zeros(len(HANDS) * OWN_SIZE + DOOR_SIZE, np.float32)
        self._steps, self._solved = 0, False
        self._rng = np.random.default_rng()
        self._renderer = try_to_render(lambda: mujoco.Renderer(model, height=480, width=640)) if render_mode else None

    def observation_space(self, agent: str) -> spaces.Box:
        return self._observation_space

    def action_space(self, agent: str) -> spaces.Box:
        return self._action_spaces[agent]

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
        # A step of the simulator has two halves: what follows from positions and velocities, and the move. By ending
        # with the first half of the next one, all that is observed belongs to where things now are.
        mujoco.mj_step2(self.model, data)
        mujoco.mj_step(self.model, data, SUBSTEPS - 1)
        mujoco.mj_step1(self.model, data)
        self._steps += 1

        places = data.site_xpos[self._places]
        handles = places[-2:]
        gaps = places[:-2].reshape(2, -1, 3) - handles[:, None]  # (2, 5, 3), from a hand's handle to its fingertips
        right, left = np.sqrt((gaps * gaps).sum(-1)).sum(-1).tolist()
        apart = abs(float(handles[0, 1] - handles[1, 1]))
        task = self.task
        self._solved |= task.is_solved(apart)
        reward = task.offset - right - left
        if max(right, left) < NEAR:
            reward += task.door_reward(apart)
        terminated = max(right, left) >= task.too_far
        truncated = not terminated and self._steps >= self.episode_length
        info = {}
        if terminated or truncated:
            self.agents = []
            info["win"] = float(self._solved)
        return (
            self._observe(),
            dict.fromkeys(agents, reward),
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            {agent: info.copy() for agent in agents},
        )

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
        """Observations of all agents; notes the state."""
        data = self.data
        simulated = np.concatenate((data.qpos, data.qvel, data.sensordata, data.site_xpos.ravel(), self._action))
        seen = (simulated[self._observed] - self._centre) * self._scale  # (2, 117)
        seen = np.minimum(np.maximum(seen, -BOUND), BOUND).astype(np.float32)
        self._state = np.concatenate((seen[0, :OWN_SIZE], seen[1]))
        return dict(zip(self.possible_agents, seen[self._hand_of], strict=True))

    def _choose_observed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The observation of each hand: indices into the numbers of `_observe`, their offsets and scales.

        Each is (2, 117).
        """
        model, n = self.model, len(HANDS)
        sizes = (model.nq, model.nv, model.nsensordata, 3 * model.nsite, n * N_ACTIONS)
        positions, velocities, sensors, places, actions = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
        tips, handles = np.split(places.reshape(-1, 3)[self._places].ravel(), [-3 * n])
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
        observed, centre, scale = np.stack(table, axis=1)
        return observed.astype(np.intp), centre, scale


SUITE = Suite(
    name="dexhands",
    tasks={name: task.summary for name, task in TASKS.items()},
    make=DexHands,
    requires=("mujoco", "gymnasium_robotics"),
    extra="dexhands",
)
