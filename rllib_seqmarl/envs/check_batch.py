"""The check of a batch of teams: a simulator that steps many at once, in play."""

import numpy as np

from rllib_seqmarl.envs.batch_play import ENDS, SEEN, Looked, Play, Stage, difference, ended, sees_same
from rllib_seqmarl.envs.batch_promises import A_BATCH, of_attributes
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult
from rllib_seqmarl.envs.final_observations import of_final_observations
from rllib_seqmarl.envs.promises import Breaches, of_pictures, refuse

BEGIN = "start a new episode in a copy that `reset_mask` names, also in mid-episode"
ALONE = "keep copies independent of each other"


def check_batch(batch: BatchedSimulator, *, episodes: int, max_steps: int, seed: int) -> None:
    """Plays a batch with random legal actions and says which promises it breaks; returns if none.

    It is played once, then again with the same seeds and actions: to see that all comes out the same, and what changes
    if one copy begins in mid-episode; and with other actions, to see whether copies begin by themselves where episodes
    end.

    Args:
        batch: Of any size; that copies are independent shows from two on.
        episodes: How many each copy plays, from 1.
        max_steps: After how many an episode is left: the copy begins.
        seed: Of the first copy, counted up from copy to copy; and of the actions.

    Raises:
        JointEnvError: A promise is broken.
    """
    refuse(type(batch).__name__, A_BATCH, "", of_attributes(batch))
    check = _Check(batch, seed)
    play = check.play(episodes, max_steps)
    check.refuse("", check.of_repetition(play))
    check.refuse("", check.of_beginning(play))
    check.refuse("", of_final_observations(check, max_steps=max_steps))
    check.refuse("", of_pictures(batch))


class _Check(Stage):
    """A batch in play; each method `of_...` yields the promises that are broken."""

    def __init__(self, batch: BatchedSimulator, seed: int):
        super().__init__(batch, seed)
        self.has_wins: bool | None = None
        self.given: list[tuple[BatchObservation | StepResult, Looked]] = []  # since the last reset
        sizes = np.array([[space.shape[0]] for space in batch.observation_spaces if space.shape])
        self.is_own = np.arange(sizes.max()) < sizes  # (n, size), entries that are not padding
        low, high = (np.zeros(self.is_own.shape) for _ in range(2))
        for row, space in enumerate(batch.observation_spaces):
            low[row, self.is_own[row]], high[row, self.is_own[row]] = space.low, space.high  # type: ignore[attr-defined]
        self.bounds = low, high

    # -- how it is played ------------------------------------------------------------------------------------

    def reset(self, seed: int | None = None) -> Looked:
        self.given = []
        return super().reset(seed)

    def step(self, number: int, actions: np.ndarray, reset_mask: np.ndarray) -> Looked:
        given = actions.copy(), reset_mask.copy()
        looked = super().step(number, *given)
        self.refuse(f"At step {number}: ", _of_arguments(given, (actions, reset_mask)))
        return looked

    def take(self, where: str, result: BatchObservation | StepResult) -> Looked:
        looked = super().take(where, result)
        self.given.append((result, looked))
        self.refuse(where, self.of_values(result, looked))
        return looked

    def play(self, episodes: int, max_steps: int) -> Play:
        """Plays until every copy has finished, or left after `max_steps`, this many episodes."""
        rng = np.random.default_rng(self.seed)
        looked = self.reset()
        play = Play([], [], [looked])
        reset_mask = np.zeros(self.batch.num_envs, np.bool_)
        lasted, finished = np.zeros((2, self.batch.num_envs), np.int64)
        while finished.min() < episodes:
            play.actions.append(self.player.draw(looked, rng))
            play.reset_mask.append(reset_mask)
            looked = self.step(len(play.actions), play.actions[-1], reset_mask)
            play.looked.append(looked)
            lasted = np.where(reset_mask, 0, lasted + 1)
            reset_mask = ended(looked) | (lasted >= max_steps)
            finished += reset_mask
        self.refuse("", self.of_earlier_arrays())
        return play

    def replay(self, play: Play, steps: int) -> list[Looked]:
        """The same actions again from the reset on."""
        again = [self.reset()]
        for step in range(1, steps + 1):
            again.append(self.step(step, play.actions[step - 1], play.reset_mask[step - 1]))
        return again

    # -- what shows at once ----------------------------------------------------------------------------------

    def of_values(self, result: BatchObservation | StepResult, looked: Looked) -> Breaches:
        seen = result if isinstance(result, BatchObservation) else result.observation
        agents, observed = self.batch.agents, looked["observations"]
        for copy, row, entry in np.argwhere(~np.isfinite(observed))[:1]:
            value = observed[copy, row, entry]
            yield "give finite observations", f"In copy {copy} agent {agents[row]!r} observes {value} at entry {entry}."
        if "state" in looked and not np.isfinite(looked["state"]).all():
            copy, entry = np.argwhere(~np.isfinite(looked["state"]))[0]
            value = looked["state"][copy, entry]
            yield "give finite global states", f"That of copy {copy} is {value} at entry {entry}."
        if "rewards" in looked and not np.isfinite(looked["rewards"]).all():
            copy, row = np.argwhere(~np.isfinite(looked["rewards"]))[0]
            value = looked["rewards"][copy, row]
            yield "give finite rewards", f"In copy {copy} that of agent {agents[row]!r} is {value}."
        outside = ((observed < self.bounds[0]) | (observed > self.bounds[1])) & self.is_own & seen.alive[:, :, None]
        for copy, row, entry in np.argwhere(outside)[:1]:
            yield (
                "give observations within the bounds of their space",
                f"In copy {copy} agent {agents[row]!r} observes {observed[copy, row, entry]} at entry {entry}. "
                "Clip it, or widen the space.",
            )
        for copy, row, entry in np.argwhere((observed != 0) & ~self.is_own)[:1]:
            yield (
                "pad observations with zeros",
                f"In copy {copy} agent {agents[row]!r} has {observed[copy, row, entry]} at entry {entry}; "
                "its own are fewer. Write zeros there.",
            )
        over = ended(looked) if "terminated" in looked else np.zeros(len(observed), np.bool_)
        stuck = seen.alive & ~self.player.action_mask(looked).any(axis=2) & ~over[:, None]
        for copy, row in np.argwhere(stuck)[:1]:
            yield (
                "leave every living agent a legal action",
                f"In copy {copy} agent {agents[row]!r} has none; give it a no-op.",
            )
        if isinstance(result, StepResult):
            has_wins = result.wins is not None
            if self.has_wins not in (None, has_wins):
                yield "give `wins` at every step or never", f"It gave {'some' if has_wins else 'none'} only now."
            self.has_wins = has_wins

    def of_earlier_arrays(self) -> Breaches:
        copies = range(self.batch.num_envs)
        for step, (result, looked) in enumerate(self.given):
            found = difference(self.player.look(result), looked, copies)
            if found:
                yield (
                    "leave the arrays of earlier steps as they were",
                    f"`{found[0]}` of copy {found[1]} at step {step} changed later. Give new arrays at every step.",
                )

    # -- what shows when it is played again ------------------------------------------------------------------

    def of_repetition(self, play: Play) -> Breaches:
        again = self.replay(play, len(play.actions))
        for step, (first, second) in enumerate(zip(play.looked, again, strict=True)):
            found = difference(first, second, range(self.batch.num_envs))
            if found:
                yield (
                    "play the same episodes for the same seeds and actions",
                    f"`{found[0]}` of copy {found[1]} was another at step {step}. Draw all randomness from generators "
                    "that `reset` seeds.",
                )

    def of_beginning(self, play: Play) -> Breaches:
        """Changes that result from restarting a copy in mid-episode."""
        lengths = [(copy, play.end_of(copy, 1)) for copy in reversed(range(self.batch.num_envs))]
        copy, length = next(((copy, length) for copy, length in lengths if length > 1), (0, 0))
        if not length:
            return  # there is no mid-episode
        at = 1 + length // 2
        others = [other for other in range(self.batch.num_envs) if other != copy]
        until = {other: play.end_of(other, at) for other in others}
        departed = self.depart(play, copy, at, max(length, *until.values(), at))
        told = f"Copy {copy} was told to begin at step {at} and"
        first, before = play.looked[0], play.looked[at - 1]
        if not sees_same(first, departed[at], copy):
            episode = range(at, length + 1)
            if not any(difference(play.looked[step], departed[step], [copy], (*SEEN, *ENDS)) for step in episode):
                yield BEGIN, f"{told} went on as if it had moved. Obey `reset_mask`."
            elif sees_same(before, departed[at], copy):
                yield BEGIN, f"{told} stayed where it was. Obey `reset_mask`."
        for step in range(at, len(departed)):
            found = difference(play.looked[step], departed[step], [b for b in others if step <= until[b]])
            if found:
                yield (
                    ALONE,
                    f"`{found[0]}` of copy {found[1]} at step {step} is another if copy {copy} begins at step {at}.",
                )

    def depart(self, play: Play, copy: int, at: int, until: int) -> list[Looked]:
        """The same play, up to step `until`, except that a copy begins at step `at`, and then does what is legal."""
        again, rng = self.replay(play, at - 1), np.random.default_rng(self.seed)
        for step in range(at, until + 1):
            actions, reset_mask = play.actions[step - 1].copy(), play.reset_mask[step - 1].copy()
            if self.player.is_discrete:
                action_mask = np.take_along_axis(
                    self.player.action_mask(again[-1])[copy], actions[copy][:, None], axis=1
                )[:, 0]
                actions[copy] = np.where(action_mask, actions[copy], self.player.draw(again[-1], rng)[copy])
            reset_mask[copy] = step == at or bool(ended(again[-1])[copy])
            again.append(self.step(step, actions, reset_mask))
        return again


def _of_arguments(given: tuple[np.ndarray, ...], meant: tuple[np.ndarray, ...]) -> Breaches:
    for name, array, original in zip(("actions", "begins"), given, meant, strict=True):
        if not np.array_equal(array, original):
            yield "leave its arguments as they are", f"It wrote into `{name}`: copy them first."
