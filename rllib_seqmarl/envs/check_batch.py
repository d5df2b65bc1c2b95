"""The check of a batched simulator by random play."""

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.batch_play import (
    END_KEYS,
    OBSERVATION_KEYS,
    CheckedBatch,
    Recording,
    Snapshot,
    ended,
    first_difference,
    has_same_observation,
)
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult
from rllib_seqmarl.envs.contract import Violations, check_rendering
from rllib_seqmarl.envs.final_observations import check_final_observations

RESTART = "start a new episode in copies where `reset_mask` is set, also in mid-episode"
INDEPENDENCE = "keep copies independent of each other"


def check_batch(batch: BatchedSimulator, *, episodes: int, max_steps: int, seed: int) -> None:
    """Play a batch with random legal actions and raise if it violates the contract.

    The batch is played once, then replayed with the same seeds and actions to check that the results are identical and
    that restarting one copy in mid-episode affects only that copy. Finally it is played with other actions to check
    that copies do not reset themselves at the end of an episode.

    Args:
        batch: A batch of any size; independence of copies is checked from two copies on.
        episodes: Number of episodes that each copy plays, at least 1.
        max_steps: Number of steps after which an episode is abandoned and the copy restarted.
        seed: Seed of the actions and of the first copy; copy i has `seed + i`.

    Raises:
        JointEnvError: The batch violates the contract.
    """
    check = _Check(batch, seed)
    recording = check.play(episodes, max_steps)
    check.raise_violations("", check.check_determinism(recording))
    check.raise_violations("", check.check_restart(recording))
    check.raise_violations("", check_final_observations(check, max_steps=max_steps))
    check.raise_violations("", check_rendering(batch))


class _Check(CheckedBatch):
    """A batch under test; the methods `check_...` yield violations."""

    def __init__(self, batch: BatchedSimulator, seed: int):
        super().__init__(batch, seed)
        self.has_wins: bool | None = None
        self.results: list[tuple[BatchObservation | StepResult, Snapshot]] = []  # since the last reset

    # -- playing and replaying -------------------------------------------------------------------------------

    def reset(self, seed: int | None = None) -> Snapshot:
        self.results = []
        return super().reset(seed)

    def step(self, number: int, actions: np.ndarray, reset_mask: np.ndarray) -> Snapshot:
        arguments = actions.copy(), reset_mask.copy()
        snapshot = super().step(number, *arguments)
        self.raise_violations(f"At step {number}: ", _check_arguments(arguments, (actions, reset_mask)))
        return snapshot

    def process(self, where: str, result: BatchObservation | StepResult) -> Snapshot:
        snapshot = super().process(where, result)
        self.results.append((result, snapshot))
        self.raise_violations(where, self.check_values(result, snapshot))
        return snapshot

    def play(self, episodes: int, max_steps: int) -> Recording:
        """Play until every copy has finished, or abandoned after `max_steps`, this many episodes."""
        rng = np.random.default_rng(self.seed)
        snapshot = self.reset()
        recording = Recording([], [], [snapshot])
        reset_mask = np.zeros(self.batch.num_envs, np.bool_)
        lengths, finished = np.zeros((2, self.batch.num_envs), np.int64)
        while finished.min() < episodes:
            recording.actions.append(self.draw(snapshot, rng))
            recording.reset_masks.append(reset_mask)
            snapshot = self.step(len(recording.actions), recording.actions[-1], reset_mask)
            recording.snapshots.append(snapshot)
            lengths = np.where(reset_mask, 0, lengths + 1)
            reset_mask = ended(snapshot) | (lengths >= max_steps)
            finished += reset_mask
        self.raise_violations("", self.check_earlier_arrays())
        return recording

    def replay(self, recording: Recording, steps: int) -> list[Snapshot]:
        """Reset and take the recorded actions again, for this many steps."""
        snapshots = [self.reset()]
        for step in range(1, steps + 1):
            snapshots.append(self.step(step, recording.actions[step - 1], recording.reset_masks[step - 1]))
        return snapshots

    # -- checks of single results ----------------------------------------------------------------------------

    def check_values(self, result: BatchObservation | StepResult, snapshot: Snapshot) -> Violations:
        alive = (result if isinstance(result, BatchObservation) else result.observation).alive
        agents, observations = self.batch.agents, snapshot["observations"]
        for copy, row, entry in np.argwhere(~np.isfinite(observations))[:1]:
            finding = f"agent {agents[row]!r} observes {observations[copy, row, entry]} at entry {entry}."
            yield "return finite observations", f"In copy {copy}, {finding}"
        for copy, entry in np.argwhere(~np.isfinite(snapshot.get("state", np.zeros((0, 0)))))[:1]:
            finding = f"the state is {snapshot['state'][copy, entry]} at entry {entry}."
            yield "return finite global states", f"In copy {copy}, {finding}"
        for copy, row in np.argwhere(~np.isfinite(snapshot.get("rewards", np.zeros((0, 0)))))[:1]:
            finding = f"the reward of agent {agents[row]!r} is {snapshot['rewards'][copy, row]}."
            yield "return finite rewards", f"In copy {copy}, {finding}"
        for copy in np.flatnonzero(~np.isfinite(snapshot.get("wins", np.zeros(0))))[:1]:
            yield "return finite wins at the end of an episode", f"In copy {copy}, it is {snapshot['wins'][copy]}."
        for row, (agent, space) in enumerate(zip(agents, self.batch.observation_spaces, strict=True)):
            assert isinstance(space, spaces.Box)
            own, padding = np.split(observations[:, row], [space.shape[0]], axis=1)
            outside = ((own < space.low) | (own > space.high)) & alive[:, row, None]
            for copy, entry in np.argwhere(outside)[:1]:
                finding = f"agent {agent!r} observes {own[copy, entry]} at entry {entry}. Clip it, or widen the space."
                yield "return observations within the bounds of their space", f"In copy {copy}, {finding}"
            for copy, entry in np.argwhere(padding != 0)[:1]:
                finding = f"{padding[copy, entry]} at entry {own.shape[1] + entry}, which is padding. Set it to zero."
                yield "pad observations with zeros", f"In copy {copy}, agent {agent!r} has {finding}"
        if "action_mask" in snapshot:
            over = ended(snapshot) if "terminated" in snapshot else np.zeros(len(observations), np.bool_)
            for copy, row in np.argwhere(alive & ~snapshot["action_mask"].any(axis=2) & ~over[:, None])[:1]:
                finding = f"In copy {copy}, agent {agents[row]!r} has none; give it a no-op."
                yield "leave every living agent a legal action", finding
        if isinstance(result, StepResult):
            has_wins = result.wins is not None
            if self.has_wins not in (None, has_wins):
                finding = f"They are {'present' if has_wins else 'missing'} for the first time."
                yield "return `wins` at every step or never", finding
            self.has_wins = has_wins

    def check_earlier_arrays(self) -> Violations:
        copies = range(self.batch.num_envs)
        for step, (result, snapshot) in enumerate(self.results):
            difference = first_difference(self.snapshot(result), snapshot, copies)
            if difference:
                name, copy = difference
                yield (
                    "leave the arrays of earlier steps unchanged",
                    f"`{name}` of copy {copy} at step {step} changed later. Return new arrays at every step.",
                )

    # -- checks that need a replay ---------------------------------------------------------------------------

    def check_determinism(self, recording: Recording) -> Violations:
        replayed = self.replay(recording, len(recording.actions))
        for step, (first, second) in enumerate(zip(recording.snapshots, replayed, strict=True)):
            difference = first_difference(first, second, range(self.batch.num_envs))
            if difference:
                name, copy = difference
                yield (
                    "play the same episodes for the same seeds and actions",
                    f"`{name}` of copy {copy} differed at step {step}. Draw all randomness from generators "
                    "that `reset` seeds.",
                )

    def check_restart(self, recording: Recording) -> Violations:
        """Check what changes if one copy is restarted in mid-episode."""
        lengths = [(copy, recording.end_of(copy, 1)) for copy in reversed(range(self.batch.num_envs))]
        copy, length = next(((copy, length) for copy, length in lengths if length > 1), (0, 0))
        if not length:
            return  # no episode is long enough
        restart = 1 + length // 2
        others = [other for other in range(self.batch.num_envs) if other != copy]
        ends = {other: recording.end_of(other, restart) for other in others}
        varied = self.replay_with_restart(recording, copy, restart, max(length, *ends.values(), restart))
        prefix = f"Copy {copy} was to restart at step {restart} but"
        first, before = recording.snapshots[0], recording.snapshots[restart - 1]
        if not has_same_observation(first, varied[restart], copy):
            steps = range(restart, length + 1)
            keys = (*OBSERVATION_KEYS, *END_KEYS)
            if not any(first_difference(recording.snapshots[step], varied[step], [copy], keys) for step in steps):
                yield RESTART, f"{prefix} continued its episode. Follow `reset_mask`."
            elif has_same_observation(before, varied[restart], copy):
                yield RESTART, f"{prefix} did not change. Follow `reset_mask`."
        for step in range(restart, len(varied)):
            running = [other for other in others if step <= ends[other]]
            difference = first_difference(recording.snapshots[step], varied[step], running)
            if difference:
                name, other = difference
                yield (
                    INDEPENDENCE,
                    f"`{name}` of copy {other} at step {step} changes if copy {copy} restarts at step {restart}.",
                )

    def replay_with_restart(self, recording: Recording, copy: int, restart: int, last: int) -> list[Snapshot]:
        """Replay up to step `last`, but restart a copy at step `restart`; from there its actions are kept if legal."""
        snapshots, rng = self.replay(recording, restart - 1), np.random.default_rng(self.seed)
        for step in range(restart, last + 1):
            actions, reset_mask = recording.actions[step - 1].copy(), recording.reset_masks[step - 1].copy()
            mask = snapshots[-1].get("action_mask")
            if mask is not None:
                is_legal = mask[copy][np.arange(len(actions[copy])), actions[copy]]  # (n,)
                actions[copy] = np.where(is_legal, actions[copy], self.draw(snapshots[-1], rng)[copy])
            reset_mask[copy] = step == restart or bool(ended(snapshots[-1])[copy])
            snapshots.append(self.step(step, actions, reset_mask))
        return snapshots


def _check_arguments(passed: tuple[np.ndarray, ...], originals: tuple[np.ndarray, ...]) -> Violations:
    for name, array, original in zip(("actions", "reset_mask"), passed, originals, strict=True):
        if not np.array_equal(array, original):
            yield "leave its arguments unchanged", f"It wrote into `{name}`: copy it first."
