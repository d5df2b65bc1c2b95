"""Tests that all kinds of auto-resetting batches are detected, and that unusual but correct ones pass."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from toy_batch import ToyBatch, Walkers

from rllib_seqmarl.envs import BatchedSimulator, BatchObservation, JointEnvError, StepResult
from rllib_seqmarl.envs.final_observations import check_start

RESET_ITSELF = (
    r"It must return the final observation with the last step of an episode. The observation of copy \d at the end of "
    r"its episode, step \d+, is the first one of its next episode, .* return the final observation.* set its "
    r"`check_at_start` to False\."
)


class Oblivious(Walkers):
    """Resets itself, and steps copies that should restart but hides it."""

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        result = super().step(actions, np.zeros_like(reset_mask))
        return result._replace(
            rewards=np.where(reset_mask[:, None], 0.0, result.rewards), truncated=result.truncated & ~reset_mask
        )


class Resting(Walkers):
    """Resets itself, and does not move copies that should restart."""

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        self.rests = reset_mask
        return super().step(actions, np.zeros_like(reset_mask))

    def move(self, actions: np.ndarray) -> None:
        places, count = self.places[self.rests].copy(), self.count[self.rests].copy()
        super().move(actions)
        self.places[self.rests], self.count[self.rests] = places, count

    def reward(self) -> np.ndarray:
        return np.where(self.rests[:, None], 0.0, super().reward())


class Meeting(Walkers):
    """Terminates when the two agents meet or are far apart."""

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        apart = np.abs(self.places[:, 0] - self.places[:, 1]).round()
        return ((apart == 0) | (apart > 2)) & (self.count > 0), np.zeros(self.num_envs, bool)


SELF_RESETTING: dict[str, Callable[..., BatchedSimulator]] = {
    "random starts": Walkers,
    "starts alike": lambda n, **options: Walkers(n, spread=0.0, **options),
    "noise in every step": lambda n, **options: Walkers(n, noise=0.1, **options),
    "noise, starts alike": lambda n, **options: Walkers(n, noise=0.1, spread=0.0, **options),
    "long episodes": lambda n, **options: Walkers(n, length=300, **options),
    "reset mask is ignored": Oblivious,
    "restarting copies rest": Resting,
    "terminations only": Meeting,
}


@pytest.mark.parametrize(
    ("kind", "num_envs"),
    # With one copy, too few episodes terminate at the same step.
    [pair for pair in product(SELF_RESETTING, [1, 2, 32]) if pair != ("terminations only", 1)],
)
def test_self_resetting_batches_are_rejected(kind: str, num_envs: int) -> None:
    with pytest.raises(JointEnvError, match=RESET_ITSELF):
        check_start(SELF_RESETTING[kind](num_envs, resets_itself=True))


class Contexts(Walkers):
    """Draws a new observation in every step, regardless of the actions."""

    def see(self) -> BatchObservation:
        drawn = np.array([rng.random((2, 1)) for rng in self.rngs], np.float32)
        return super().see()._replace(observations=drawn)


class Blank(Walkers):
    """Returns zeros at the end of an episode."""

    def see(self) -> BatchObservation:
        observation = super().see()
        observation.observations[self.count == self.length] = 0.0
        return observation


class Dying(Walkers):
    """All agents are dead at the end of an episode."""

    def see(self) -> BatchObservation:
        observation = super().see()
        observation.alive[self.count == self.length] = False
        return observation


class Falling(Walkers):
    """Terminates in the state in which all episodes start."""

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        fallen = (np.abs(self.places) > 1).any(axis=1)
        self.places[fallen] = 0.0
        return fallen, np.zeros(self.num_envs, bool)


class Ring(Walkers):
    """Agents walk on a ring of a few places."""

    def __init__(self, num_envs: int, size: int):
        super().__init__(num_envs, spread=0.0, length=6)
        self.size = size

    def see(self) -> BatchObservation:
        observation = super().see()
        return observation._replace(observations=np.mod(observation.observations, self.size))


class Unseeded(Walkers):
    """Ignores seeds."""

    def reset(self, seeds: object = None) -> BatchObservation:
        return super().reset()


class GoingOn(Walkers):
    """Episodes are sections of one continuing walk."""

    def begin(self, reset_mask: np.ndarray) -> None:
        self.count[reset_mask] = 0

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        return super().step(np.where(reset_mask[:, None], 1, actions), reset_mask)


CORRECT: dict[str, Callable[[int], BatchedSimulator]] = {
    "discrete toys": ToyBatch,
    "continuous toys": lambda n: ToyBatch(n, continuous=True),
    "random starts": Walkers,
    "starts alike": lambda n: Walkers(n, spread=0.0),
    "noise": lambda n: Walkers(n, noise=0.1),
    "episodes of one step": lambda n: Walkers(n, length=1),
    "episodes of two steps": lambda n: Walkers(n, length=2, spread=0.0),
    "terminations only": Meeting,
    "contexts": Contexts,
    "blank ends": Blank,
    "dead ends": Dying,
    "ends like starts": Falling,
    "one place": lambda n: Ring(n, 1),
    "two places": lambda n: Ring(n, 2),
    "three places": lambda n: Ring(n, 3),
    "without seeds": Unseeded,
    "without starts": GoingOn,
    "without ends": lambda n: Walkers(n, length=10**9),
}


@pytest.mark.parametrize("num_envs", [1, 2, 32])
@pytest.mark.parametrize("kind", CORRECT)
def test_correct_batches_pass(kind: str, num_envs: int) -> None:
    check_start(CORRECT[kind](num_envs))


def test_check_at_start_can_be_disabled() -> None:
    batch = ToyBatch(2)
    batch.check_at_start = False
    check_start(batch)
    assert batch.steps == 0


def test_check_does_not_determine_later_episodes() -> None:
    starts = set()
    for _ in range(2):
        batch = Walkers(2)
        check_start(batch)
        starts.add(batch.reset().observations.tobytes())
    assert len(starts) == 2


def test_check_of_a_slow_batch_is_limited_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from rllib_seqmarl.envs import final_observations

    clock = iter(range(10**9))  # advances by a second with every call
    monkeypatch.setattr(final_observations.time, "monotonic", lambda: float(next(clock)))
    batch = ToyBatch(2)
    batch.length = np.full(2, 10**6)
    batch._begin = lambda reset_mask: None  # type: ignore[method-assign]
    check_start(batch)
    assert batch.steps <= 2 * (final_observations.START_SECONDS + 1)
