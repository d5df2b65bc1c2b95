"""Play of a batched simulator by its checks: random legal actions that can be replayed and varied."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rllib_seqmarl.envs.agent_spaces import AgentAction
from rllib_seqmarl.envs.batch_promises import A_BATCH, of_moved, of_seen
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult
from rllib_seqmarl.envs.promises import Breaches, refuse

Looked = dict[str, np.ndarray]  # the arrays of a reset or step by name, blank where values are unused
SEEN = ("observations", "alive", "action_mask", "state")
ENDS = ("terminated", "truncated")


@dataclass(frozen=True)
class Play:
    """The inputs of a batch and its results. Step t, from 1, is `actions[t - 1]` and gave `looked[t]`.

    Attributes:
        actions: Of each step.
        begins: Of each step.
        looked: Of the reset, and of each step.
    """

    actions: list[np.ndarray]
    reset_mask: list[np.ndarray]
    looked: list[Looked]

    def over(self, step: int) -> np.ndarray:
        """Bool (B,), whose episode ended with this step."""
        return ended(self.looked[step])

    def end_of(self, copy: int, step: int) -> int:
        """The last step of the episode that a copy plays at `step`; of the play, where it is broken off before."""
        begun = (later for later in range(step + 1, len(self.looked)) if self.reset_mask[later - 1][copy])
        return next(begun, len(self.looked)) - 1


class Player:
    """Legal actions of all agents, and the comparable part of results.

    Args:
        batch: Whose attributes are in order.
    """

    def __init__(self, batch: BatchedSimulator):
        self.own = [
            AgentAction.of(agent, space) for agent, space in zip(batch.agents, batch.action_spaces, strict=True)
        ]
        self.is_discrete = self.own[0].is_discrete
        self.shape = (batch.num_envs, len(self.own), max(action.width for action in self.own))
        # Bool (n, width): an agent's own choices or dimensions among the padded ones.
        self.is_own = np.arange(self.shape[2]) < np.array([[action.width] for action in self.own])
        if not self.is_discrete:
            low, high = (np.zeros(self.shape[1:], np.float32) for _ in range(2))
            for row, action in enumerate(self.own):
                low[row, : action.dim], high[row, : action.dim] = action.bounds()
            self.bounds = np.clip(low, -1e3, 1e3), np.clip(high, -1e3, 1e3)

    def action_mask(self, looked: Looked) -> np.ndarray:
        """Bool (B, n, width)."""
        return np.broadcast_to(looked.get("action_mask", self.is_own), self.shape)

    def draw(self, looked: Looked, rng: np.random.Generator) -> np.ndarray:
        """Random legal actions, int64 (B, n) or float32 (B, n, dim)."""
        if self.is_discrete:
            return np.where(self.action_mask(looked), rng.random(self.shape), -1.0).argmax(axis=2)
        return rng.uniform(*self.bounds, self.shape).astype(np.float32)

    def look(self, result: BatchObservation | StepResult) -> Looked:
        """Copies of the arrays; unused values are zero: those of dead agents, padding, and wins before the end."""
        seen = result if isinstance(result, BatchObservation) else result.observation
        alive = seen.alive[:, :, None]
        looked = {"observations": np.where(alive, seen.observations, 0.0), "alive": seen.alive.copy()}
        if seen.action_mask is not None:
            looked["action_mask"] = (seen.action_mask != 0) & alive & self.is_own
        if seen.state is not None:
            looked["state"] = seen.state.copy()
        if isinstance(result, StepResult):
            looked |= {name: getattr(result, name).copy() for name in ("rewards", *ENDS)}
            if result.wins is not None:
                looked["wins"] = np.where(ended(looked), result.wins, 0.0)
        return looked


class Stage:
    """A batch that is reset and stepped for a check; what it gives is looked at for its form.

    Args:
        batch: Whose attributes are in order.
        seed: Of the first copy, counted up from copy to copy.
    """

    def __init__(self, batch: BatchedSimulator, seed: int):
        self.batch = batch
        self.seed = seed
        self.player = Player(batch)

    def refuse(self, where: str, breaches: Breaches) -> None:
        """Raises JointEnvError if there are breaches."""
        refuse(type(self.batch).__name__, A_BATCH, where, breaches)

    def reset(self, seed: int | None = None) -> Looked:
        """The observations after a reset with the stage's seed, or another one."""
        first = self.seed if seed is None else seed
        seen = self.batch.reset([first + copy for copy in range(self.batch.num_envs)])
        self.refuse("At reset: ", of_seen(self.batch, seen))
        return self.take("At reset: ", seen)

    def step(self, number: int, actions: np.ndarray, reset_mask: np.ndarray) -> Looked:
        """The result of step `number`, from 1."""
        told = reset_mask.copy()
        moved = self.batch.step(actions, reset_mask)
        where = f"At step {number}: "
        self.refuse(where, of_moved(self.batch, moved, told))
        return self.take(where, moved)

    def take(self, where: str, result: BatchObservation | StepResult) -> Looked:
        """The comparable part of a well-formed result; subclasses may check more here."""
        return self.player.look(result)


def ended(looked: Looked) -> np.ndarray:
    """Bool (B,), whose episode ended with this step."""
    return looked["terminated"] | looked["truncated"]


def difference(
    a: Looked, b: Looked, copies: Sequence[int] | np.ndarray, names: Iterable[str] | None = None
) -> tuple[str, int] | None:
    """The first array (of `names`, if given) in which one of these copies differs, and the copy; None if all agree."""
    for name in dict.fromkeys((*a, *b)) if names is None else names:
        for copy in copies:
            if (name in a) != (name in b) or not (name not in a or np.array_equal(a[name][copy], b[name][copy])):
                return name, int(copy)
    return None


def sees_same(a: Looked, b: Looked, copy: int) -> bool:
    """Whether a team sees the same in both."""
    return difference(a, b, [copy], [name for name in SEEN if name in a]) is None
