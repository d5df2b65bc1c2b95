"""Common actions of a mixture of tasks, padded to the task with the most choices or dimensions."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.agent_spaces import Space
from rllib_seqmarl.envs.layout import TeamLayout


class CommonActions(ABC):
    """Common action space of several tasks, which are identified by index."""

    @abstractmethod
    def space(self) -> Space:
        """Create a new action space object for one agent."""

    @abstractmethod
    def to_joint_action(self, task: int, rows: Sequence[int], actions: Sequence[Any]) -> np.ndarray:
        """Convert the actions of the agents in `rows` to the task's joint action, with placeholders in other rows."""

    def pad_masks(self, task: int, own: np.ndarray | None) -> np.ndarray | None:
        """Pad the task's own masks, if any, to int8 (n, width). None if the mixture has no masks."""
        return None


def make_common_actions(tasks: Sequence[tuple[str, TeamLayout]]) -> CommonActions:
    """Make the common actions of tasks, given by name and layout.

    Raises:
        ValueError: Discrete and continuous tasks are mixed, or a continuous action is unbounded.
    """
    layouts = [layout for _, layout in tasks]
    discrete, continuous = ([name for name, layout in tasks if layout.is_discrete is kind] for kind in (True, False))
    if discrete and continuous:
        raise ValueError(
            f"tasks: actions are discrete in {discrete[0]} but continuous in {continuous[0]}, and one policy cannot "
            "have both. Mix tasks of one kind."
        )
    if discrete:
        return CommonDiscreteActions(layouts)
    for name, layout in tasks:
        if not np.isfinite([layout.low, layout.high]).all():
            raise ValueError(f"tasks: actions in {name} are unbounded, so they cannot be scaled to other tasks'.")
    return CommonContinuousActions(layouts)


class CommonDiscreteActions(CommonActions):
    """Discrete actions. Each component has the most choices of any task; masks forbid those that a task lacks."""

    def __init__(self, layouts: Sequence[TeamLayout]):
        self._layouts = layouts
        components = max(len(layout.nvec) for layout in layouts)
        padded = [layout.nvec + (1,) * (components - len(layout.nvec)) for layout in layouts]
        self.nvec = tuple(map(max, zip(*padded, strict=True)))
        starts = np.cumsum((0, *self.nvec))[:-1]
        # For each task, the columns of its own mask within the common mask.
        self._columns = [
            np.concatenate([start + np.arange(n) for start, n in zip(starts, layout.nvec, strict=False)])
            for layout in layouts
        ]
        # For each task, the common mask (n, width) if the task forbids nothing. In components that it lacks, only the
        # first choice is allowed, without effect.
        self._default_masks = [np.zeros((layout.n_agents, sum(self.nvec)), np.int8) for layout in layouts]
        for layout, mask, columns in zip(layouts, self._default_masks, self._columns, strict=True):
            mask[:, starts] = 1
            mask[:, columns] = layout.own_actions
        self._has_masks = any(layout.has_action_mask or layout.nvec != self.nvec for layout in layouts)

    def space(self) -> Space:
        return spaces.Discrete(self.nvec[0]) if len(self.nvec) == 1 else spaces.MultiDiscrete(list(self.nvec))

    def to_joint_action(self, task: int, rows: Sequence[int], actions: Sequence[Any]) -> np.ndarray:
        layout = self._layouts[task]
        joint_action = np.zeros((layout.n_agents, len(layout.nvec)), np.int64)
        joint_action[rows] = np.reshape(actions, (len(rows), len(self.nvec)))[:, : len(layout.nvec)]
        return joint_action.reshape(layout.action_shape)

    def pad_masks(self, task: int, own: np.ndarray | None) -> np.ndarray | None:
        if not self._has_masks:
            return None
        masks = self._default_masks[task].copy()
        if own is not None:
            masks[:, self._columns[task]] = own
        return masks


class CommonContinuousActions(CommonActions):
    """Continuous actions in -1..1, scaled to the task's own bounds."""

    def __init__(self, layouts: Sequence[TeamLayout]):
        self._layouts = layouts
        self._dim = max(layout.dim for layout in layouts)

    def space(self) -> Space:
        return spaces.Box(-1.0, 1.0, (self._dim,), np.float32)

    def to_joint_action(self, task: int, rows: Sequence[int], actions: Sequence[Any]) -> np.ndarray:
        layout = self._layouts[task]
        joint_action = np.zeros((layout.n_agents, layout.dim), np.float32)
        joint_action[rows] = np.reshape(actions, (len(rows), self._dim))[:, : layout.dim]
        return layout.fit(joint_action, normalize=True, clip=True)
