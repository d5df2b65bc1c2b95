"""Random play of a batched simulator for its checks: legal actions that can be replayed and varied."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rllib_seqmarl.envs.agent_spaces import AgentAction
from rllib_seqmarl.envs.batch_contract import BATCH, check_observation, check_step_result
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult
from rllib_seqmarl.envs.contract import Violations, raise_violations

Snapshot = dict[str, np.ndarray]  # copies of the arrays of a reset or step, zero where values are unused
OBSERVATION_KEYS = ("observations", "alive", "action_mask", "state")
END_KEYS = ("terminated", "truncated")


@dataclass(frozen=True)
class Recording:
    """The inputs and results of a batch. Step t, from 1, has the inputs at index t - 1 and the result `snapshots[t]`.

    Attributes:
        actions: One array per step.
        reset_masks: One array per step.
        snapshots: The reset's, then one per step.
    """

    actions: list[np.ndarray]
    reset_masks: list[np.ndarray]
    snapshots: list[Snapshot]

    def end_of(self, copy: int, step: int) -> int:
        """The last step of the episode that a copy plays at `step`, or of the recording if that ends earlier."""
        restarts = (later for later in range(step + 1, len(self.snapshots)) if self.reset_masks[later - 1][copy])
        return next(restarts, len(self.snapshots)) - 1


class RandomPlayer:
    """Draws legal actions for all agents and takes comparable snapshots of results.

    Args:
        batch: The simulator; its attributes are valid.
    """

    def __init__(self, batch: BatchedSimulator):
        self.agent_actions = [
            AgentAction.of(agent, space) for agent, space in zip(batch.agents, batch.action_spaces, strict=True)
        ]
        self.is_discrete = self.agent_actions[0].is_discrete
        widest = max(action.width for action in self.agent_actions)
        self.shape = (batch.num_envs, len(self.agent_actions), widest)
        # Bool (n, width): the choices or dimensions that are not padding.
        self.is_own = np.arange(self.shape[2]) < np.array([[action.width] for action in self.agent_actions])
        if not self.is_discrete:
            low, high = (np.zeros(self.shape[1:], np.float32) for _ in range(2))
            for row, action in enumerate(self.agent_actions):
                low[row, : action.dim], high[row, : action.dim] = action.bounds()
            self.bounds = np.clip(low, -1e3, 1e3), np.clip(high, -1e3, 1e3)

    def action_mask(self, snapshot: Snapshot) -> np.ndarray:
        """The legal choices, bool (B, n, width)."""
        return np.broadcast_to(snapshot.get("action_mask", self.is_own), self.shape)

    def draw(self, snapshot: Snapshot, rng: np.random.Generator) -> np.ndarray:
        """Draw random legal actions, int64 (B, n) or float32 (B, n, dim)."""
        if self.is_discrete:
            return np.where(self.action_mask(snapshot), rng.random(self.shape), -1.0).argmax(axis=2)
        return rng.uniform(*self.bounds, self.shape).astype(np.float32)

    def snapshot(self, result: BatchObservation | StepResult) -> Snapshot:
        """Copy the arrays, with zeros for dead agents, for padding, and for wins before the end of an episode."""
        observation = result if isinstance(result, BatchObservation) else result.observation
        alive = observation.alive[:, :, None]
        snapshot = {
            "observations": np.where(alive, observation.observations, 0.0),
            "alive": observation.alive.copy(),
        }
        if observation.action_mask is not None:
            snapshot["action_mask"] = (observation.action_mask != 0) & alive & self.is_own
        if observation.state is not None:
            snapshot["state"] = observation.state.copy()
        if isinstance(result, StepResult):
            snapshot |= {name: getattr(result, name).copy() for name in ("rewards", *END_KEYS)}
            if result.wins is not None:
                snapshot["wins"] = np.where(ended(snapshot), result.wins, 0.0)
        return snapshot


class CheckedBatch:
    """A batch whose results are checked for their form whenever it is reset or stepped.

    Args:
        batch: The simulator; its attributes are valid.
        seed: Seed of the first copy; copy i has `seed + i`.
    """

    def __init__(self, batch: BatchedSimulator, seed: int):
        self.batch = batch
        self.seed = seed
        self.player = RandomPlayer(batch)

    def raise_violations(self, where: str, violations: Violations) -> None:
        """Raise JointEnvError if there are violations."""
        raise_violations(type(self.batch).__name__, BATCH, where, violations)

    def reset(self, seed: int | None = None) -> Snapshot:
        """Reset the batch with `seed`, by default its own, and return a snapshot of the observations."""
        first = self.seed if seed is None else seed
        observation = self.batch.reset([first + copy for copy in range(self.batch.num_envs)])
        self.raise_violations("At reset: ", check_observation(self.batch, observation))
        return self.process("At reset: ", observation)

    def step(self, number: int, actions: np.ndarray, reset_mask: np.ndarray) -> Snapshot:
        """Take step `number`, from 1, and return a snapshot of its result."""
        original_mask = reset_mask.copy()
        result = self.batch.step(actions, reset_mask)
        where = f"At step {number}: "
        self.raise_violations(where, check_step_result(self.batch, result, original_mask))
        return self.process(where, result)

    def process(self, where: str, result: BatchObservation | StepResult) -> Snapshot:
        """Take a snapshot of a well-formed result; subclasses may add checks."""
        return self.player.snapshot(result)


def ended(snapshot: Snapshot) -> np.ndarray:
    """Bool (B,): the copies whose episode ended with this step."""
    return snapshot["terminated"] | snapshot["truncated"]


def first_difference(
    a: Snapshot, b: Snapshot, copies: Sequence[int] | np.ndarray, names: Iterable[str] | None = None
) -> tuple[str, int] | None:
    """The first array (among `names`, if given) and copy (among `copies`) that differ; None if all are equal."""
    for name in dict.fromkeys((*a, *b)) if names is None else names:
        for copy in copies:
            if (name in a) != (name in b) or not (name not in a or np.array_equal(a[name][copy], b[name][copy])):
                return name, int(copy)
    return None


def has_same_observation(a: Snapshot, b: Snapshot, copy: int) -> bool:
    """Return whether a copy's observations are equal in both snapshots."""
    return first_difference(a, b, [copy], [name for name in OBSERVATION_KEYS if name in a]) is None
