"""What agents can do in a mixture of tasks: the choices or dimensions of the task that has most of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
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
    def of_team(self, task: int, actions: Iterable[tuple[int, Any]]) -> np.ndarray:
        """The task's own joint action, from (row, action) of those who act."""

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
        # In components that a task does not have the first choice stands for nothing.
        self._blank = np.zeros(sum(self.nvec), np.int8)
        self._blank[starts] = 1
        self._has_masks = any(layout.has_action_mask or layout.nvec != self.nvec for layout in layouts)

    def space(self) -> Space:
        return spaces.Discrete(self.nvec[0]) if len(self.nvec) == 1 else spaces.MultiDiscrete(list(self.nvec))

    def of_team(self, task: int, actions: Iterable[tuple[int, Any]]) -> np.ndarray:
        layout = self._layouts[task]
        joint_action = np.zeros((layout.n_agents, len(layout.nvec)), np.int64)
        for row, action in actions:
            joint_action[row] = np.atleast_1d(action)[: len(layout.nvec)]
        return joint_action.reshape(layout.action_shape)

    def masks(self, task: int, own: np.ndarray | None) -> np.ndarray | None:
        if not self._has_masks:
            return None
        masks = np.tile(self._blank, (self._layouts[task].n_agents, 1))
        masks[:, self._places[task]] = self._layouts[task].own_actions if own is None else own
        return masks


class CommonForces(CommonActions):
    """All dimensions go from -1 to 1, which stands for the lowest and the highest of the task's own."""

    def __init__(self, layouts: Sequence[TeamLayout]):
        self._layouts = layouts
        self._dim = max(layout.dim for layout in layouts)

    def space(self) -> Space:
        return spaces.Box(-1.0, 1.0, (self._dim,), np.float32)

    def of_team(self, task: int, actions: Iterable[tuple[int, Any]]) -> np.ndarray:
        layout = self._layouts[task]
        joint_action = np.zeros((layout.n_agents, layout.dim), np.float32)
        for row, action in actions:
            joint_action[row] = action[: layout.dim]
        middle, half = (layout.high + layout.low) / 2, (layout.high - layout.low) / 2
        return np.clip(middle + half * joint_action, layout.low, layout.high)
