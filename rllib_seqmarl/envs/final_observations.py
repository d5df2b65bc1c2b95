"""Detection of auto-resetting batches, which return the next episode's first observation instead of the final one.

A final observation depends on what the team has done; an initial one does not. So episodes are played twice, with the
same seeds and different actions. If episodes that end at the same step both times all have equal final observations,
although the observations before them differed, these must be initial ones. The method does not depend on how the
simulator draws its randomness or treats `reset_mask`.

A correct batch must never be rejected. So the check passes if final observations could be equal for another reason:
there are too few samples, or teams may end where they always start, or observe nothing at the end.
"""

import time
from collections import Counter
from math import inf, log
from typing import NamedTuple

import numpy as np

from rllib_seqmarl.envs.batch_play import CheckedBatch, Snapshot, ended
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator
from rllib_seqmarl.envs.contract import Violations

FINAL = "return the final observation with the last step of an episode"
MAX_COPIES = 64
MAX_ROUNDS = 16  # in each, every copy plays one episode twice
ENOUGH_ENDS = 32  # if these are inconclusive, more will be as well
MAX_CHANCE = 1e-4  # the highest accepted probability of ends that are equal by chance
START_STEPS = 2000
START_SECONDS = 2.0


def check_start(batch: BatchedSimulator) -> None:
    """Check before training that a batch does not reset itself, unless its `check_at_start` is False.

    Each copy plays an episode of at most `START_STEPS` steps twice, and more of them if too few end at the same step.
    After `START_SECONDS` only the current second pass is completed, so the check takes at most twice that time, plus
    the first step, which may compile. All random streams are reseeded afterwards.

    Raises:
        JointEnvError: The batch resets itself, or its results are malformed.
    """
    if not batch.check_at_start:
        return
    checked = CheckedBatch(batch, seed=0)
    violations = check_final_observations(checked, max_steps=START_STEPS, seconds=START_SECONDS)
    otherwise = "If it does not reset itself, and its episodes do end like this, set its `check_at_start` to False."
    checked.raise_violations("", ((rule, f"{finding} {otherwise}") for rule, finding in violations))
    batch.reset(np.random.default_rng().integers(2**31, size=batch.num_envs).tolist())


def check_final_observations(checked: CheckedBatch, *, max_steps: int, seconds: float = inf) -> Violations:
    """Check that final observations are returned.

    Args:
        checked: The batch to play.
        max_steps: Number of steps after which an episode is abandoned.
        seconds: Time after which no new episodes are started and those in their first pass are abandoned.
    """
    # The first step may compile and is not counted in the time.
    actions = checked.draw(checked.reset(), np.random.default_rng(0))
    checked.step(1, actions, np.zeros(checked.batch.num_envs, np.bool_))
    deadline = time.monotonic() + seconds
    mid_episode: Counter[int] = Counter()  # digests of observations that are neither initial nor final
    ends: list[_End] = []  # those with equal observations in both passes
    for number in range(MAX_ROUNDS):
        seed = checked.seed + number * checked.batch.num_envs
        first = _play(checked, seed, max_steps, deadline, action_seed=0)
        second = _play(checked, seed, int(first.ends.max()), inf, action_seed=1)
        if np.array_equal(first.digests[: len(second.digests)], second.digests):
            return  # actions have no effect, so ends are inconclusive
        mid_episode.update(first.mid_episode_digests())
        for copy in np.flatnonzero((first.ends > 0) & (first.ends == second.ends)).tolist():
            step = int(first.ends[copy])
            if first.digests[step, copy] != second.digests[step, copy]:
                return
            if first.digests[step - 1, copy] != second.digests[step - 1, copy]:
                ends.append(_End(copy, step, first.digests[step, copy], first.digests[0, copy], first.truncated[copy]))
        found = _find_reset(ends, mid_episode)
        if found:
            yield (
                FINAL,
                f"The observation of copy {found.copy} at the end of its episode, step {found.step}, is the first one "
                "of its next episode, regardless of actions: the simulator has reset itself. Disable its automatic "
                "reset, return the final observation, and start a new episode where `reset_mask` is set.",
            )
            return
        if time.monotonic() > deadline or len(ends) >= ENOUGH_ENDS:
            return


class _End(NamedTuple):
    """An episode's end with equal observations in both passes."""

    copy: int
    step: int
    digest: int  # of the final observation
    start: int  # digest of the same copy's observation after the reset
    truncated: bool


class _Episodes(NamedTuple):
    """The first episodes of the observed copies, W of them, in T steps; row t is step t, and row 0 the reset.

    Attributes:
        digests: (T + 1, W), a hash of each copy's observation.
        ends: (W,), the last step of its episode; 0 if that was abandoned.
        truncated: bool (W,), whether the episode was truncated.
    """

    digests: np.ndarray
    ends: np.ndarray
    truncated: np.ndarray

    def mid_episode_digests(self) -> list[int]:
        """The digests of observations between start and end."""
        steps = np.arange(len(self.digests))[:, None]
        return self.digests[(steps > 0) & (steps < self.ends)].tolist()


def _play(checked: CheckedBatch, seed: int, max_steps: int, deadline: float, action_seed: int) -> _Episodes:
    """Play until the episodes of all observed copies have ended, or the time is up."""
    rng = np.random.default_rng(action_seed)
    snapshot = checked.reset(seed)
    digests = [_digests(snapshot)]
    reset_mask = np.zeros(checked.batch.num_envs, np.bool_)
    ends, truncated = np.zeros(len(digests[0]), np.int64), np.zeros(len(digests[0]), np.bool_)
    while len(digests) <= max_steps and not ends.all() and time.monotonic() < deadline:
        snapshot = checked.step(len(digests), checked.draw(snapshot, rng), reset_mask)
        reset_mask = ended(snapshot)
        over = reset_mask[: len(ends)] & (ends == 0)
        ends[over] = len(digests)
        truncated[over] = snapshot["truncated"][: len(ends)][over]
        digests.append(_digests(snapshot))
    return _Episodes(np.array(digests), ends, truncated)


def _digests(snapshot: Snapshot) -> list[int]:
    """A hash of each observed copy's observation; masks are left out because they may be arbitrary at an end."""
    arrays = [snapshot[name] for name in ("observations", "state") if name in snapshot]
    num_copies = min(len(arrays[0]), MAX_COPIES)
    return [hash(b"".join(array[copy].tobytes() for array in arrays)) for copy in range(num_copies)]


def _find_reset(ends: list[_End], mid_episode: Counter[int]) -> _End | None:
    """The first conclusive end, if all of them together can only be initial observations; otherwise None.

    Some ends are inconclusive. If all episodes start alike, a team may terminate where it started, for example by
    falling back; and an observation that many have at the end, and none at the start, may be blank.
    """
    counts = Counter(end.digest for end in ends)
    conclusive = [end for end in ends if (end.truncated if end.digest == end.start else counts[end.digest] == 1)]
    # The log-probability that all these ends are equal if an end can equal any mid-episode observation.
    chance = sum(log((mid_episode[end.digest] + 1) / (mid_episode.total() + 1)) for end in conclusive)
    return conclusive[0] if len(conclusive) > 1 and chance < log(MAX_CHANCE) else None
