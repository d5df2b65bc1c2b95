"""MaMuJoCo: one robot whose joints are divided among agents (Peng et al. 2021), from gymnasium-robotics.

A task is a domain and a factorisation: in `HalfCheetah-6x1` six agents control one joint each. This is version 1 of the
suite, based on gymnasium's MuJoCo environments v5. All agents get the robot's reward. Also included are the
factorisations with one joint per agent from the HAPPO and MAT papers that the package lacks (Ant-8x1, Humanoid-17x1,
Walker2d-6x1).

Quirks of the package are kept, since they are part of the benchmark: in ManySegmentAnt all segments but the last read
entries of joints other than their own, and all move their other leg; in Humanoid the observations of the first two
abdomen joints are swapped.
"""

import inspect
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from rllib_seqmarl.envs.options import check_names, check_number, check_options
from rllib_seqmarl.envs.parallel_env import BaseParallelEnv
from rllib_seqmarl.envs.suite import Suite, listed_tasks
from rllib_seqmarl.envs.suites.mamujoco_joints import Joints, import_from_package
from rllib_seqmarl.envs.suites.mamujoco_observations import ObservationFn, fuse_observations
from rllib_seqmarl.envs.suites.mujoco_rendering import select_gl_backend, try_to_render

_TASKS = listed_tasks("mamujoco")
_SEGMENTED = {  # domain -> (base domain, the package's module that adds segments to it)
    "ManySegmentAnt": ("Ant", "many_segment_ant"),
    "ManySegmentSwimmer": ("Swimmer", "many_segment_swimmer"),
}


def make_mamujoco(
    task: str,
    *,
    agent_obsk: int | None = 1,
    local_categories: Sequence[Sequence[str]] | None = None,
    global_categories: Sequence[str] | None = None,
    disabled_joints: Sequence[int] = (),
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
    **physics: Any,
) -> ParallelEnv:
    """Make one task.

    MAT's published experiments (train_mujoco.sh in github.com/PKU-MARL/Multi-Agent-Transformer) use `agent_obsk=0`.
    Their environment also standardises each agent's observation and id over their entries. There is no such option
    here, since the LayerNorm in the networks' first layer has the same effect.

    Args:
        task: Such as "HalfCheetah-6x1"; "Humanoid-9_8" is the package's "9|8".
        agent_obsk: Distance in joints up to which an agent observes, >= 0; 0 for its own joints only. All agents
            observe the torso. None: all agents observe the whole state.
        local_categories: Observed categories of joints at distances 0, 1, ..., agent_obsk: for each a list of "qpos",
            "qvel", "qfrc_actuator", "cinert", "cvel", "cfrc_ext" and any others of the domain's joints. None: positions
            and velocities (for some domains more) of an agent's own joints, positions of others.
        global_categories: Observed categories of the torso; None: "qpos" and "qvel".
        disabled_joints: Joints that always get zero control: indices into the robot's action, which for HalfCheetah-6x1
            are the agents' indices.
        max_episode_steps: Steps after which an episode is truncated, >= 1; None for the domain's default, 1000, but 50
            for Reacher and 100 for Pusher.
        render_mode: None or "rgb_array". Without a display EGL is used, unless MUJOCO_GL is set.
        **physics: Options of gymnasium's environment that do not change observations, such as forward_reward_weight,
            ctrl_cost_weight, reset_noise_scale, terminate_when_unhealthy or frame_skip, and the width and height of
            rendered images.

    Raises:
        ValueError: An option is unknown or out of range for the domain, or there is no OpenGL to render with.
    """
    arguments = {**locals(), **physics}
    del arguments["physics"]
    name, task = f"mamujoco/{task}", task.replace("|", "_")
    domain = task.split("-")[0]
    base, segments_from = _SEGMENTED.get(domain, (domain, None))
    check_options(make_mamujoco, arguments, {"max_episode_steps": 1, "agent_obsk": 0})
    if agent_obsk is None and (local_categories is not None or global_categories is not None):
        raise ValueError(
            "agent_obsk=None: all agents observe the whole state, so there are no categories to choose. Leave out "
            "local_categories and global_categories, or give an agent_obsk >= 0."
        )
    if render_mode:
        select_gl_backend()
    _check_physics(name, base, physics)
    joints = Joints.from_task(task)
    observation_fns = (
        None if agent_obsk is None else joints.observation_fns(agent_obsk, local_categories, global_categories)
    )

    make = partial(
        gym.make,
        f"{base}-v5",
        max_episode_steps=max_episode_steps,
        render_mode=render_mode,
        disable_env_checker=True,
        **physics,
    )
    recreate = partial(make_mamujoco, **arguments)
    team = partial(MaMuJoCo, name, joints.actuators, observation_fns, disabled_joints, recreate)
    if segments_from is None:
        return team(make())
    # The package would write the model into its own folder, where processes starting at the same time would conflict.
    agents, segments_each = map(int, task.split("-")[1].split("x"))
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder, "model.xml"))
        import_from_package(segments_from).gen_asset(agents * segments_each, model)
        return team(make(xml_file=model))


class MaMuJoCo(BaseParallelEnv):
    """A robot as a team.

    Args:
        name: The environment's name.
        actuators: For each agent, the indices of the robot's action that it controls.
        observation_fns: For each agent, a function from MuJoCo's data to its observation; None if all agents observe
            what `robot` does.
        disabled_joints: Indices of the robot's action that stay 0.
        recreate: Makes an equal team. Copies and pickles construct a new environment, as gymnasium's do.
        robot: Gymnasium's MujocoEnv, with its time limit.
    """

    def __init__(
        self,
        name: str,
        actuators: Sequence[Sequence[int]],
        observation_fns: Sequence[ObservationFn] | None,
        disabled_joints: Sequence[int],
        recreate: Callable[[], ParallelEnv],
        robot: Any,
    ):
        self.robot = robot
        self._recreate = recreate
        self.metadata = {"name": name, "render_modes": ["rgb_array"], "render_fps": robot.metadata["render_fps"]}
        bounds = robot.action_space
        self._actuators = np.concatenate(actuators)
        self._disabled = _check_joints(robot, disabled_joints)
        self._control = np.zeros(bounds.shape)

        self._read_observations = (
            None if observation_fns is None else fuse_observations(observation_fns, robot.unwrapped.data)
        )
        state, _ = robot.reset()
        self._state = state.astype(np.float32)
        self.state_space = _unbounded_box(len(state))
        sizes = (
            [len(state)] * len(actuators) if self._read_observations is None else map(len, self._read_observations())
        )
        super().__init__(
            [f"agent_{i}" for i in range(len(actuators))],
            map(_unbounded_box, sizes),
            [spaces.Box(bounds.low[list(own)], bounds.high[list(own)], dtype=np.float32) for own in actuators],
            robot.render_mode,
        )
        if self.render_mode:
            try_to_render(self.robot.render)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        state, info = self.robot.reset(seed=seed, options=options)
        self.agents = self.possible_agents[:]
        return self._observe(state), dict.fromkeys(self.agents, info)

    def step(self, actions: Mapping[str, np.ndarray]) -> tuple[dict, dict, dict, dict, dict]:
        agents, control = self.agents, self._control
        control[self._actuators] = np.concatenate([actions[agent] for agent in agents])
        control[self._disabled] = 0.0
        state, reward, terminated, truncated, info = self.robot.step(control)
        rewards, infos = dict.fromkeys(agents, float(reward)), dict.fromkeys(agents, info)
        return self.end_step(self._observe(state), rewards, bool(terminated), bool(truncated), infos)

    def state(self) -> np.ndarray:
        """Return the observation of gymnasium's environment, float32."""
        return self._state

    def render(self) -> Any:
        return self.robot.render()

    def close(self) -> None:
        self.robot.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return self._recreate, ()

    def _observe(self, state: np.ndarray) -> dict[str, np.ndarray]:
        self._state = state.astype(np.float32)
        if self._read_observations is None:
            return {agent: self._state.copy() for agent in self.possible_agents}
        return dict(zip(self.possible_agents, self._read_observations(), strict=True))


def _unbounded_box(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


def _check_joints(robot: Any, joints: Any) -> list[int]:
    model = robot.unwrapped.model
    if isinstance(joints, list | tuple) and all(type(joint) is int and 0 <= joint < model.nu for joint in joints):
        return list(joints)
    names = [model.joint(model.actuator(i).trnid[0]).name for i in range(model.nu)]
    raise ValueError(
        f"disabled_joints={joints!r} is out of range: give a list of integers from 0 to {model.nu - 1} "
        f"({', '.join(f'{i} {name}' for i, name in enumerate(names))})."
    )


def _check_physics(name: str, base: str, physics: Mapping[str, Any]) -> None:
    maker = gym.envs.registration.load_env_creator(str(gym.spec(f"{base}-v5").entry_point))
    kinds = {
        option: parameter.annotation
        for option, parameter in inspect.signature(maker, eval_str=True).parameters.items()
        if parameter.annotation in (bool, int, float, tuple[float, float])
        and not option.startswith(("include_", "exclude_"))  # these change the state
    }
    *own, _ = list(inspect.signature(make_mamujoco).parameters)[1:]
    check_names(name, physics, [*own, *kinds, "width", "height"])
    check_options(maker, physics, {"frame_skip": 1, "reset_noise_scale": 0})
    for option, value in physics.items():
        if option in ("width", "height"):
            check_number(option, value, 1)
        elif kinds[option] == tuple[float, float] and not _is_range(value):
            raise ValueError(f"{option}={value!r} is not a range: give two numbers, the lower one first.")


def _is_range(value: Any) -> bool:
    are_numbers = isinstance(value, list | tuple) and all(isinstance(number, int | float) for number in value)
    return are_numbers and len(value) == 2 and value[0] <= value[1]


def _is_valid_task(task: str) -> bool:
    if task in ("Humanoid-9|8", "HumanoidStandup-9|8"):
        return True
    segmented = re.fullmatch(r"(\w+)-([1-9]\d*)x([1-9]\d*)", task)
    return segmented is not None and segmented[1] in _SEGMENTED and int(segmented[2]) * int(segmented[3]) > 1


SUITE = Suite(
    name="mamujoco",
    tasks=_TASKS,
    make=make_mamujoco,
    requires=("gymnasium_robotics", "mujoco"),
    extra="mamujoco",
    knows=_is_valid_task,
    other_tasks="ManySegmentAnt-{agents}x{ants of each} and ManySegmentSwimmer-{agents}x{joints of each}, with at "
    "least two segments (not CoupledHalfCheetah-1p1, which the package cannot reset with current MuJoCo versions)",
)
