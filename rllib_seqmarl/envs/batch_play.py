"""Random play of a batched simulator for its checks: legal actions that can be replayed and varied."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rllib_seqmarl.envs.batch_contract import BATCH, check_observation, check_step_result
from rllib_seqmarl.envs.batch_env import JointBatchEnv
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


class CheckedBatch:
    """A batch whose results are checked for their form whenever it is reset or stepped.

    Args:
        batch: The simulator; its attributes are checked.
        seed: Seed of the first copy; copy i has `seed + i`.
    """

    def __init__(self, batch: BatchedSimulator, seed: int):
        self.batch = batch
        self.seed = seed
        self.layout = JointBatchEnv(batch).layout

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
        return self.snapshot(result)

    def draw(self, snapshot: Snapshot, rng: np.random.Generator) -> np.ndarray:
        """Draw random legal actions, int64 (B, n) or float32 (B, n, dim)."""
        return self.layout.sample(rng, self.batch.num_envs, snapshot.get("action_mask"))

    def snapshot(self, result: BatchObservation | StepResult) -> Snapshot:
        """Copy the arrays, with zeros for dead agents, for padding, and for wins before the end of an episode."""
        observation = result if isinstance(result, BatchObservation) else result.observation
        alive = observation.alive[:, :, None]
        snapshot = {"observations": np.where(alive, observation.observations, 0.0), "alive": observation.alive.copy()}
        if observation.action_mask is not None:
            snapshot["action_mask"] = (observation.action_mask != 0) & alive & (self.layout.own_actions != 0)
        if observation.state is not None:
            snapshot["state"] = observation.state.copy()
        if isinstance(result, StepResult):
            snapshot |= {name: getattr(result, name).copy() for name in ("rewards", *END_KEYS)}
            if result.wins is not None:
                snapshot["wins"] = np.where(ended(snapshot), result.wins, 0.0)
        return snapshot


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
