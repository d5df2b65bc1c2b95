"""Whether a batch loses final observations: a simulator that resets itself shows the next episode's first one instead.

What a copy shows at its episode's end is the outcome of what the team has done; where an episode begins, it is not. So
episodes are played twice, with the same seeds and other actions. Of those that end with the same step both times, the
ends are compared: if all look the same, although what was seen before did not, they are beginnings. How the simulator
draws its randomness, and what it makes of `reset_mask`, does not matter.

A sound batch must never be blamed, so nothing is said where its ends could look the same: if too little was seen, or if
teams come to an end where they always start, or see nothing at an end.
"""

import time
from collections import Counter
from math import inf, log
from typing import NamedTuple

import numpy as np

from rllib_seqmarl.envs.batch_play import Looked, Stage, ended
from rllib_seqmarl.envs.batch_promises import A_BATCH, of_attributes
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator
from rllib_seqmarl.envs.promises import Breaches, refuse

FINAL = "show the final observation with the last step of an episode"
WATCHED = 64  # copies at most
ROUNDS = 16  # at most, of an episode that each copy plays twice
MANY_ENDS = 32  # if these do not tell, more of them will not either
BY_CHANCE = 1e-4  # so probable may it be at most that ends look the same
START_STEPS = 2000
START_SECONDS = 2.0


def check_start(batch: BatchedSimulator) -> None:
    """A look, before training, at whether a batch resets itself, unless its `check_at_start` is False.

    Each copy plays an episode of at most `START_STEPS` steps twice; several, if too few end with the same step. After
    `START_SECONDS` it only ends what it plays for the second time, so that twice this time is the most it takes, plus
    the first step, which may compile. All random streams are reseeded afterwards.

    Raises:
        JointEnvError: It does, or what it gives is wrong in form.
    """
    if not batch.check_at_start:
        return
    refuse(type(batch).__name__, A_BATCH, "", of_attributes(batch))
    stage = Stage(batch, seed=0)
    found = of_final_observations(stage, max_steps=START_STEPS, seconds=START_SECONDS)
    unless = "If it has not, and its episodes do end like that, set its attribute `check_at_start` to False."
    stage.refuse("", ((promise, f"{breach} {unless}") for promise, breach in found))
    batch.reset(np.random.default_rng().integers(2**31, size=batch.num_envs).tolist())


def of_final_observations(stage: Stage, *, max_steps: int, seconds: float = inf) -> Breaches:
    """Whether final observations are shown.

    Args:
        stage: Where the batch plays.
        max_steps: After how many an episode is broken off.
        seconds: After how many no further episodes are begun, and those played for the first time are broken off.
    """
    # The first step may compile, and takes no part in the time.
    stage.step(1, stage.player.draw(stage.reset(), np.random.default_rng(0)), np.zeros(stage.batch.num_envs, np.bool_))
    until = time.monotonic() + seconds
    moments: Counter[int] = Counter()  # what was seen in the midst of episodes
    ends: list[_End] = []  # that look the same both times
    for number in range(ROUNDS):
        seed = stage.seed + number * stage.batch.num_envs
        first = _play(stage, seed, max_steps, until, actions=0)
        second = _play(stage, seed, int(first.ends.max()), inf, actions=1)
        if np.array_equal(first.views[: len(second.views)], second.views):
            return  # whatever is done, so that ends tell nothing
        moments.update(first.moments())
        for copy in np.flatnonzero((first.ends > 0) & (first.ends == second.ends)).tolist():
            step = int(first.ends[copy])
            if first.views[step, copy] != second.views[step, copy]:
                return
            if first.views[step - 1, copy] != second.views[step - 1, copy]:
                ends.append(_End(copy, step, first.views[step, copy], first.views[0, copy], first.truncated[copy]))
        found = _beginnings(ends, moments)
        if found:
            yield (
                FINAL,
                f"What copy {found.copy} shows at the end of its episode, step {found.step}, is the beginning of its "
                "next one, whatever the team did: it has reset itself. Step it without its automatic reset, return the "
                "last observation, and start a new episode where `reset_mask` is set.",
            )
            return
        if time.monotonic() > until or len(ends) >= MANY_ENDS:
            return


class _End(NamedTuple):
    """An end that looks the same whatever was done; views are numbers, the same for what looks the same."""

    copy: int
    step: int
    view: int
    start: int  # the view of the same copy after the reset
    truncated: bool


class _Played(NamedTuple):
    """The first episodes of the watched copies, W of them, in T steps; row t is step t, and row 0 the reset.

    Attributes:
        views: (T + 1, W), a number for what a copy saw.
        ends: (W,), the step with which its episode ended; 0 if it was broken off.
        truncated: bool (W,), whether by truncation.
    """

    views: np.ndarray
    ends: np.ndarray
    truncated: np.ndarray

    def moments(self) -> list[int]:
        """The views between beginning and end."""
        steps = np.arange(len(self.views))[:, None]
        return self.views[(steps > 0) & (steps < self.ends)].tolist()


def _play(stage: Stage, seed: int, max_steps: int, until: float, actions: int) -> _Played:
    """Until all watched copies have come to an end, or the time is up; `actions` seeds what they do."""
    rng = np.random.default_rng(actions)
    looked = stage.reset(seed)
    views = [_views(looked)]
    reset_mask = np.zeros(stage.batch.num_envs, np.bool_)
    ends, truncated = np.zeros(len(views[0]), np.int64), np.zeros(len(views[0]), np.bool_)
    while len(views) <= max_steps and not ends.all() and time.monotonic() < until:
        looked = stage.step(len(views), stage.player.draw(looked, rng), reset_mask)
        reset_mask = ended(looked)
        over = reset_mask[: len(ends)] & (ends == 0)
        ends[over] = len(views)
        truncated[over] = looked["truncated"][: len(ends)][over]
        views.append(_views(looked))
    return _Played(np.array(views), ends, truncated)


def _views(looked: Looked) -> list[int]:
    """A number for what each of the watched copies observes; masks, which may mean nothing at an end, are left out."""
    arrays = [looked[name] for name in ("observations", "state") if name in looked]
    watched = min(len(arrays[0]), WATCHED)
    return [hash(b"".join(array[copy].tobytes() for array in arrays)) for copy in range(watched)]


def _beginnings(ends: list[_End], moments: Counter[int]) -> _End | None:
    """The first of these ends if, taken together, they can only be beginnings.

    Some tell nothing. If all episodes start alike, a team may terminate where it started, as by falling back; and what
    many see at their end, and none at the start, may be nothing at all.
    """
    times = Counter(end.view for end in ends)
    telling = [end for end in ends if (end.truncated if end.view == end.start else times[end.view] == 1)]
    # How probable it is that an end looks like another one, if it looks like any moment of an episode.
    chance = sum(log((moments[end.view] + 1) / (moments.total() + 1)) for end in telling)
    return telling[0] if len(telling) > 1 and chance < log(BY_CHANCE) else None
