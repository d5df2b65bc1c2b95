"""The check of a batch finds each planted defect, names copy, step and remedy, and finds nothing in sound ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from test_final_observations import SELF_RESETTING, SOUND
from toy_batch import ToyBatch, Walkers

from rllib_seqmarl.envs import BatchedSimulator, BatchObservation, JointEnvError, StepResult, check_joint_env

B = 3


@pytest.mark.parametrize("kind", sorted(SOUND.keys() - {"without seeds", "without starts", "without ends"}))
def test_sound_batches_pass(kind: str) -> None:
    check_joint_env(SOUND[kind](B))


@pytest.mark.parametrize("task", ["vmas/balance", "jumanji-lbf/8x8-2p-2f-coop", "smax/3m"])
def test_batched_suites_pass(task: str) -> None:
    check_joint_env(task, {"max_steps": 12} if task != "jumanji-lbf/8x8-2p-2f-coop" else {})


def at_step_2(spoil: Callable[[StepResult], StepResult | None], **options: Any) -> ToyBatch:
    """Toys of which the second step is spoilt, in each play."""
    batch = ToyBatch(B, **options)
    reset, step = batch.reset, batch.step

    def start_counting(seeds: Sequence[int] | None = None) -> BatchObservation:
        batch.steps = 0
        return reset(seeds)

    def spoilt_step(actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        moved = step(actions, reset_mask)
        return (spoil(moved) or moved) if batch.steps == 2 else moved

    batch.reset, batch.step = start_counting, spoilt_step  # type: ignore[method-assign]
    return batch


def seeing(part: str, value: Any, where: Any, **options: Any) -> ToyBatch:
    def spoil(moved: StepResult) -> None:
        getattr(moved.observation, part)[where] = value

    return at_step_2(spoil, **options)


def losing_reward(moved: StepResult) -> None:
    moved.rewards[1, 2] = np.nan


def bounded() -> ToyBatch:
    batch = seeing("observations", 12.5, (1, 2, 0))
    batch.observation_spaces = tuple(
        spaces.Box(-9.0, 9.0, space.shape, np.float32) for space in batch.observation_spaces
    )
    return batch


def without_copies() -> ToyBatch:
    batch = ToyBatch(B)
    batch.num_envs = 0
    return batch


class OneArray(Walkers):
    """Gives the same array at every step."""

    def see(self) -> BatchObservation:
        self.seen = super().see() if not hasattr(self, "seen") else self.seen
        self.seen.observations[:] = self.places[:, :, None]
        return self.seen


class Clipping(Walkers):
    """Writes into its arguments."""

    def move(self, actions: np.ndarray) -> None:
        super().move(np.minimum(actions, 1, out=actions))


class Unseeded(Walkers):
    """Takes no seeds."""

    def reset(self, seeds: Sequence[int] | None = None) -> BatchObservation:
        return super().reset()


class Staying(Walkers):
    """Lets copies that begin in mid-episode stay where they are."""

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        stays = reset_mask & (self.count < self.length)
        places = self.places[stays].copy()
        moved = super().step(actions, reset_mask)
        self.places[stays] = places
        return moved._replace(observation=self.see())


class GoingOn(Walkers):
    """Lets copies that begin in mid-episode move all the same."""

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        moved = super().step(actions, reset_mask & (self.count >= self.length))
        moved.rewards[reset_mask] = 0.0
        return moved._replace(truncated=moved.truncated & ~reset_mask)


class OneStream(Walkers):
    """All copies draw from the first one's random stream."""

    def reset(self, seeds: Sequence[int] | None = None) -> BatchObservation:
        seen = super().reset(seeds)
        self.rngs = self.rngs[:1] * self.num_envs
        return seen


class Disobeying(Walkers):
    """Has never heard of copies that begin."""

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        return super().step(actions, np.zeros_like(reset_mask))


class NoPicture(Walkers):
    def render(self) -> np.ndarray:
        return np.zeros(3)


DEFECTS: dict[str, tuple[Callable[[], BatchedSimulator], str]] = {
    "attributes": (
        without_copies,
        "ToyBatch cannot be relied on as a batch of teams:\n- It must count its copies in `num_envs`. It is 0, not an "
        "integer from 1.",
    ),
    "form": (
        lambda: at_step_2(lambda moved: moved._replace(rewards=moved.rewards[0])),
        r"each agent's own reward. At step 2: Its shape is \(3,\), not \(3, 3\).",
    ),
    "beginning": (
        lambda: Disobeying(B),
        r"with rewards of 0 and no end. At step \d: Copy 0 began with rewards of \[.*\]. Obey `reset_mask`.",
    ),
    "observations": (
        lambda: seeing("observations", np.inf, (1, 2, 1)),
        "give finite observations. At step 2: In copy 1 agent 'c' observes inf at entry 1.",
    ),
    "states": (
        lambda: seeing("state", np.nan, (2, 1)),
        "give finite global states. At step 2: That of copy 2 is nan at entry 1.",
    ),
    "rewards": (
        lambda: at_step_2(losing_reward),
        "give finite rewards. At step 2: In copy 1 that of agent 'c' is nan.",
    ),
    "bounds": (
        bounded,
        "give observations within the bounds of their space. At step 2: In copy 1 agent 'c' observes 12.5 at entry 0. "
        "Clip it, or widen the space.",
    ),
    "padding": (
        lambda: seeing("observations", 1.5, (1, 2, 2)),
        "pad observations with zeros. At step 2: In copy 1 agent 'c' has 1.5 at entry 2; its own are fewer. Write zer",
    ),
    "masks": (
        lambda: seeing("action_mask", False, (1, 2)),
        "leave every living agent a legal action. At step 2: In copy 1 agent 'c' has none; give it a no-op.",
    ),
    "wins": (
        lambda: at_step_2(lambda moved: moved._replace(wins=None)),
        "give `wins` at every step or never. At step 2: It gave none only now.",
    ),
    "arrays": (
        lambda: OneArray(B),
        "leave the arrays of earlier steps as they were. `observations` of copy 0 at step 0 changed later. Give new",
    ),
    "arguments": (
        lambda: Clipping(B),
        "leave its arguments as they are. At step 1: It wrote into `actions`: copy them first.",
    ),
    "seeds": (
        lambda: Unseeded(B),
        "play the same episodes for the same seeds and actions. `observations` of copy 0 was another at step 0. Draw "
        "all randomness from generators that `reset` seeds.",
    ),
    "staying": (
        lambda: Staying(B),
        "start a new episode in a copy that `reset_mask` names, also in mid-episode. Copy 2 was told to begin"
        " at step 3 and stay",
    ),
    "going on": (
        lambda: GoingOn(B),
        "start a new episode in a copy that `reset_mask` names, also in mid-episode. Copy 2 was told to begin"
        " at step 3 and went",
    ),
    "independence": (
        lambda: OneStream(B, noise=0.1),
        "keep copies independent of each other. `observations` of copy 0 at step 4 is another if copy 2 begins at st",
    ),
    "final observations": (
        lambda: Walkers(B, resets_itself=True),
        r"show the final observation with the last step of an episode. What copy 0 shows at the end of its episode, "
        "step 5, is the beginning of its next one",
    ),
    "pictures": (
        lambda: NoPicture(B, render_mode="rgb_array"),
        "give a picture (height, width, 3) from render() with render_mode='rgb_array'. It gave ndarray of shape (3,).",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_what_is_wrong_is_named(defect: str) -> None:
    make, message = DEFECTS[defect]
    with pytest.raises(JointEnvError) as raised:
        check_joint_env(make())
    assert message in str(raised.value) or re.search(message, str(raised.value)), raised.value
    assert str(raised.value).count("It must") == 1


@pytest.mark.parametrize("kind", sorted(SELF_RESETTING.keys() - {"long episodes", "terminations only"}))
def test_who_resets_itself_is_refused(kind: str) -> None:
    with pytest.raises(JointEnvError):
        check_joint_env(SELF_RESETTING[kind](B, resets_itself=True))
