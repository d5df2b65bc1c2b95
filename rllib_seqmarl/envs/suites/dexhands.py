"""Two Shadow Hands and a double door, in MuJoCo: door tasks after Bi-DexHands (Chen et al. 2022, arXiv 2206.08686).

Bi-DexHands is written for Isaac Gym, which needs NVIDIA's simulator and Python 3.8 at most. These tasks follow its
published scene, actions, rewards, ends and episode length, and run wherever MuJoCo does; another simulator plays
them, so returns are alike but not comparable to the digit. `dexhands-isaac` runs the original.
"""

import os
import sys
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
GL_HELP = (
    "drawing needs OpenGL without a screen. Set the environment variable MUJOCO_GL to egl (Debian: libegl1) or osmesa "
    "(Debian: libosmesa6) before Python starts"
)


@dataclass(frozen=True)
class _Task:
    """What sets the tasks apart.

    Attributes:
        starts_open: whether the door does, and is to be closed.
        offset: the constant part of the reward.
        too_far: sum of a hand's five finger distances to its handle that ends the episode [m].
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
    spring draws the leaves back to where they start.

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
        episode_length: steps of an episode, at least 1.
        reset_noise: joints start up to this part of their range away from the stretched hand, 0 to 1. With 0, as
            published, all episodes start alike.
        render_mode: "rgb_array" or None.

    Raises:
        ValueError: an option has a wrong value.
        RuntimeError: pictures are asked for and OpenGL is missing; says what to do.
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
        if render_mode and sys.platform == "linux" and "DISPLAY" not in os.environ:
            os.environ.setdefault("MUJOCO_GL", "egl")  # is read when mujoco is first imported
        import mujoco

        self._mujoco = mujoco
        self.task = TASKS[task]
        self.episode_length = episode_length
        self.reset_noise = reset_noise
        self.render_mode = render_mode
        self.model = model = build_model(starts_open=self.task.starts_open)
        self.data = mujoco.MjData(model)

        sizes = {f"{hand}_{part}": size for hand in HANDS for part, size in AGENTS[agents].items()}
        self.possible_agents = list(sizes)
        self.agents: list[str] = []
        self._hand_of = [HANDS.index(agent.partition("_")[0]) for agent in sizes]
        self._observation_space = spaces.Box(-BOUND, BOUND, (OWN_SIZE + DOOR_SIZE,), np.float32)
        self._action_spaces = {agent: spaces.Box(-1, 1, (size,), np.float32) for agent, size in sizes.items()}

        low, high = model.actuator_ctrlrange.T
        self._control_centre, self._control_reach = (high + low) / 2, (high - low) / 2
        self._joint_low, self._joint_high = model.jnt_range[
            1 : 1 + N_JOINTS
        ].T  # behind the base; both hands' are alike
        self._tips = [model.site(f"{hand}_{finger}_tip").id for hand in HANDS for finger in FINGERS]
        self._handles = [model.site(f"{hand}_handle").id for hand in HANDS]
        self._start = model.qpos0.copy()
        if self.task.starts_open:
            self._start[-2:] = FULLY_OPEN
        self._action = np.zeros(len(HANDS) * N_ACTIONS)
        self._state = np.zeros(len(HANDS) * OWN_SIZE + DOOR_SIZE, np.float32)
        self._steps, self._solved = 0, False
        self._rng = np.random.default_rng()
        self._renderer = _make_renderer(model) if render_mode else None

    def observation_space(self, agent: str) -> spaces.Box:
        return self._observation_space

    def action_space(self, agent: str) -> spaces.Box:
        return self._action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents = self.possible_agents[:]
        self._steps, self._solved = 0, False
        self._action[:] = 0.0
        mujoco, data = self._mujoco, self.data
        mujoco.mj_resetData(self.model, data)
        data.qpos[:] = self._start
        if self.reset_noise:
            reach = self.reset_noise * (self._joint_high - self._joint_low)
            noise = self._rng.uniform(-reach, reach, (len(HANDS), N_JOINTS))
            self._of_hands(data.qpos)[:, -N_JOINTS:] = np.clip(noise, self._joint_low, self._joint_high)
        mujoco.mj_step1(self.model, data)
        return self._observe(*self._look()), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        agents = self.agents
        np.concatenate([actions[agent] for agent in agents], out=self._action)
        np.clip(self._action, -1, 1, out=self._action)
        data = self.data
        data.ctrl[:] = self._control_centre + self._control_reach * self._action
        # A step of the simulator has two halves: what follows from positions and velocities, and the move. By ending
        # with the first half of the next one, all that is observed belongs to where things now are.
        self._mujoco.mj_step2(self.model, data)
        self._mujoco.mj_step(self.model, data, SUBSTEPS - 1)
        self._mujoco.mj_step1(self.model, data)
        self._steps += 1

        tips, handles = self._look()
        right, left = np.linalg.norm(tips - handles[:, None], axis=-1).sum(-1)  # of a hand's fingers to its handle
        apart = abs(handles[0, 1] - handles[1, 1])
        task = self.task
        self._solved |= task.is_solved(apart)
        reward = float(task.offset - right - left)
        if max(right, left) < NEAR:
            reward += float(task.door_reward(apart))
        terminated = bool(max(right, left) >= task.too_far)
        truncated = not terminated and self._steps >= self.episode_length
        info = {}
        if terminated or truncated:
            self.agents = []
            info["win"] = float(self._solved)
        return (
            self._observe(tips, handles),
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

    def _look(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of fingertips (2, 5, 3) and handles (2, 3), right first."""
        sites = self.data.site_xpos
        return sites[self._tips].reshape(len(HANDS), len(FINGERS), 3), sites[self._handles]

    def _observe(self, tips: np.ndarray, handles: np.ndarray) -> dict[str, np.ndarray]:
        """Observations of all agents; notes the state."""
        data, n = self.data, len(HANDS)
        positions, velocities = self._of_hands(data.qpos), self._of_hands(data.qvel)
        angles, low, high = positions[:, 7:], self._joint_low, self._joint_high
        own = (
            (2 * angles - (high + low)) / (high - low),
            VELOCITY_SCALE * velocities,
            tips.reshape(n, -1),
            TOUCH_SCALE * data.sensordata.reshape(n, -1)[:, -len(FINGERS) :],
            positions[:, :7],
            self._action.reshape(n, -1),
        )
        seen = np.empty((n, OWN_SIZE + DOOR_SIZE), np.float32)
        np.concatenate(own, axis=1, out=seen[:, :OWN_SIZE], casting="same_kind")
        door = seen[:, OWN_SIZE:]
        door[:, 0:2] = data.qpos[-2:]
        door[:, 2:4] = VELOCITY_SCALE * data.qvel[-2:]
        door[:, 4:] = handles.ravel()
        np.clip(seen, -BOUND, BOUND, out=seen)
        self._state = np.concatenate((*seen[:, :OWN_SIZE], door[0]))
        return dict(zip(self.possible_agents, seen[self._hand_of], strict=True))

    @staticmethod
    def _of_hands(values: np.ndarray) -> np.ndarray:
        """The hands' part of generalised positions or velocities, a row each; the door's two are the last."""
        return values[:-2].reshape(len(HANDS), -1)


def _make_renderer(model: Any) -> Any:
    import mujoco

    try:
        return mujoco.Renderer(model, height=480, width=640)
    except Exception as error:  # of whatever kind the OpenGL that was tried raises
        raise RuntimeError(f"render_mode='rgb_array': {GL_HELP}. ({type(error).__name__}: {error})") from error


SUITE = Suite(
    name="dexhands",
    tasks={name: task.summary for name, task in TASKS.items()},
    make=DexHands,
    requires=("mujoco", "gymnasium_robotics"),
    extra="dexhands",
)
