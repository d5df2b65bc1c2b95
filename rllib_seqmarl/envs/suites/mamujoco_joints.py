"""The partition of a robot's joints among agents in MaMuJoCo, and the joints that each agent observes."""

import contextlib
import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rllib_seqmarl.envs.options import check_choice
from rllib_seqmarl.envs.suites.mamujoco_observations import ObservationFn

# Tasks with one joint per agent, which the package lacks -> the package's factorisation that provides the joints.
SINGLE_JOINT_TASKS = {
    "Ant-8x1": "2x4",
    "Humanoid-17x1": "9_8",
    "HumanoidStandup-17x1": "9_8",
    "Pusher-7x1": "3p",
    "Walker2d-6x1": "2x3",
}

# Default categories observed of an agent's own joints, in addition to positions and velocities.
_OWN_CATEGORIES = {
    "Ant": ("cfrc_ext",),
    "ManySegmentAnt": ("cfrc_ext",),
    "Humanoid": ("cinert", "cvel", "qfrc_actuator", "cfrc_ext"),
    "HumanoidStandup": ("cinert", "cvel", "qfrc_actuator", "cfrc_ext"),
    "Reacher": ("fingertip_dist",),
}


@dataclass(frozen=True)
class Joints:
    """A robot's joints, as nodes of the package's graph.

    Attributes:
        domain: The robot.
        parts: Each agent's joints.
        edges: Edges between neighbouring joints.
        torso: Nodes without an actuator, which all agents observe.
    """

    domain: str
    parts: Sequence[tuple[Any, ...]]
    edges: Sequence[Any]
    torso: Sequence[Any]

    @classmethod
    def from_task(cls, task: str) -> "Joints":
        domain, factorisation = task.split("-")
        package_factorisation = SINGLE_JOINT_TASKS.get(task, factorisation).replace("_", "|")
        parts, edges, torso = import_from_package("obsk").get_parts_and_edges(domain, package_factorisation)
        if task in SINGLE_JOINT_TASKS:
            joints = sorted((joint for part in parts for joint in part), key=lambda joint: joint.act_ids)
            parts = [(joint,) for joint in joints]
        return cls(domain, parts, edges, torso)

    @property
    def actuators(self) -> list[list[int]]:
        """For each agent, the indices of the robot's action that move its joints."""
        return [[joint.act_ids for joint in part] for part in self.parts]

    def observation_fns(
        self, agent_obsk: int, local_categories: Sequence[Sequence[str]] | None, global_categories: Sequence[str] | None
    ) -> list[ObservationFn]:
        """Return each agent's observation as a function of MuJoCo's data. Arguments and errors: see `make_mamujoco`."""
        if local_categories is None:
            local_categories = [("qpos", "qvel", *_OWN_CATEGORIES.get(self.domain, ())), *[("qpos",)] * agent_obsk]
        if global_categories is None:
            global_categories = ("qpos", "qvel")
        if len(local_categories) != agent_obsk + 1:
            raise ValueError(
                f"local_categories={local_categories!r} has {len(local_categories)} lists: give one for each distance "
                f"from 0 to agent_obsk={agent_obsk}."
            )
        for categories in local_categories:
            _check_categories("local_categories", categories, [joint for part in self.parts for joint in part])
        _check_categories("global_categories", global_categories, self.torso)
        return [
            partial(
                import_from_package("obsk").build_obs,
                k_dict=self._joints_by_distance(part, agent_obsk),
                local_categories=local_categories,
                global_nodes=self.torso,
                global_categories=global_categories,
            )
            for part in self.parts
        ]

    def _joints_by_distance(self, part: tuple[Any, ...], agent_obsk: int) -> dict[int, list[Any]]:
        """Map distances to joints.

        The package sorts joints by name. Three of Pusher's joints share a name, so their order would vary between
        processes.
        """
        by_distance = import_from_package("obsk").get_joints_at_kdist(part, self.edges, agent_obsk)
        return {k: sorted(joints, key=lambda joint: (joint.label, joint.act_ids)) for k, joints in by_distance.items()}


def _check_categories(option: str, categories: Sequence[str], nodes: Sequence[Any]) -> None:
    """Raise ValueError for categories that no node has, which the package would skip silently."""
    available = [category for node in nodes for category in node.extra_obs]
    if all(node.qpos_ids is not None for node in nodes):
        available += ["qpos", "qvel", "qfrc_actuator"]
    if any(node.bodies for node in nodes):
        available += ["cinert", "cvel", "cfrc_ext"]
    for category in categories:
        check_choice(option, category, sorted(set(available)))


def import_from_package(module: str) -> Any:
    """Import a module of the package, without its notices about changed robot hands."""
    with contextlib.redirect_stderr(io.StringIO()):
        return importlib.import_module(f"gymnasium_robotics.envs.multiagent_mujoco.{module}")
