"""Actions in a mixture of tasks: the choices or dimensions of the task that has most of them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.agent_spaces import Space
from rllib_seqmarl.envs.layout import TeamLayout


class CommonActions(ABC):
    """The actions of several tasks as those of one. Tasks are meant by their number."""

    @abstractmethod
    def space(self) -> Space:
        """An agent's action space, a new object each time."""

    @abstractmethod
    def of_team(self, task: int, rows: Sequence[int], actions: Sequence[Any]) -> np.ndarray:
        """The task's own joint action, in which `actions` are those of the agents in `rows`; the others do nothing."""

    def masks(self, task: int, own: np.ndarray | None) -> np.ndarray | None:
        """Action masks int8 (n, width), from the task's own if it has masks; None if there never are any."""
        return None


def common_actions(tasks: Sequence[tuple[str, TeamLayout]]) -> CommonActions:
    """The actions of tasks, given by name and layout.

    Raises:
        ValueError: Some act discretely and some continuously, or a continuous action has no bounds.
    """
    layouts = [layout for _, layout in tasks]
    discrete, continuous = ([name for name, layout in tasks if layout.is_discrete is kind] for kind in (True, False))
    if discrete and continuous:
        raise ValueError(
            f"tasks: agents choose in {discrete[0]} but act continuously in {continuous[0]}, and one policy cannot do "
            "both. Mix tasks of one kind."
        )
    if discrete:
        return CommonChoices(layouts)
    for name, layout in tasks:
        if not np.isfinite([layout.low, layout.high]).all():
            raise ValueError(f"tasks: actions in {name} are not bounded, so they cannot be scaled to other tasks'.")
    return CommonForces(layouts)


class CommonChoices(CommonActions):
    """Each component of a choice has as many options as in the task with most; the mask forbids what a task has not."""

    def __init__(self, layouts: Sequence[TeamLayout]):
        self._layouts = layouts
        components = max(len(layout.nvec) for layout in layouts)
        padded = [layout.nvec + (1,) * (components - len(layout.nvec)) for layout in layouts]
        self.nvec = tuple(map(max, zip(*padded, strict=True)))
        starts = np.cumsum((0, *self.nvec))[:-1]
        # For each task, the columns of the common mask that its own columns are.
        self._places = [
            np.concatenate([start + np.arange(n) for start, n in zip(starts, layout.nvec, strict=False)])
            for layout in layouts
        ]
        # For each task, the common mask (n, width) where the task forbids nothing. In components that it does not have
        # the first choice stands for nothing.
        self._unmasked = [np.zeros((layout.n_agents, sum(self.nvec)), np.int8) for layout in layouts]
        for layout, mask, places in zip(layouts, self._unmasked, self._places, strict=True):
            mask[:, starts] = 1
            mask[:, places] = layout.own_actions
        self._has_masks = any(layout.has_action_mask or layout.nvec != self.nvec for layout in layouts)

    def space(self) -> Space:
        return spaces.Discrete(self.nvec[0]) if len(self.nvec) == 1 else spaces.MultiDiscrete(list(self.nvec))

    def of_team(self, task: int, rows: Sequence[int], actions: Sequence[Any]) -> np.ndarray:
        layout = self._layouts[task]
        joint_action = np.zeros((layout.n_agents, len(layout.nvec)), np.int64)
        joint_action[rows] = np.reshape(actions, (len(rows), len(self.nvec)))[:, : len(layout.nvec)]
        return joint_action.reshape(layout.action_shape)

    def masks(self, task: int, own: np.ndarray | None) -> np.ndarray | None:
        if not self._has_masks:
            return None
        masks = self._unmasked[task].copy()
        if own is not None:
            masks[:, self._places[task]] = own
        return masks


class CommonForces(CommonActions):
    """All dimensions go from -1 to 1, which stands for the lowest and the highest of the task's own."""

    def __init__(self, layouts: Sequence[TeamLayout]):
        self._layouts = layouts
        self._dim = max(layout.dim for layout in layouts)

    def space(self) -> Space:
        return spaces.Box(-1.0, 1.0, (self._dim,), np.float32)

    def of_team(self, task: int, rows: Sequence[int], actions: Sequence[Any]) -> np.ndarray:
        layout = self._layouts[task]
        joint_action = np.zeros((layout.n_agents, layout.dim), np.float32)
        joint_action[rows] = np.reshape(actions, (len(rows), self._dim))[:, : layout.dim]
        return layout.fit(joint_action, normalize=True, clip=True)
