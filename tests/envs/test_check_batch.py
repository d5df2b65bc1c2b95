"""Tests that the check of a batch reports each planted defect and passes correct batches."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from test_final_observations import CORRECT, SELF_RESETTING
from toy_batch import ToyBatch, Walkers

from rllib_seqmarl.envs import BatchedSimulator, BatchObservation, JointEnvError, StepResult, check_joint_env

B = 3


@pytest.mark.parametrize("kind", sorted(CORRECT.keys() - {"without seeds", "without starts", "without ends"}))
def test_correct_batches_pass(kind: str) -> None:
    check_joint_env(CORRECT[kind](B))


@pytest.mark.parametrize("task", ["vmas/balance", "jumanji-lbf/8x8-2p-2f-coop", "smax/3m"])
def test_batched_suites_pass(task: str) -> None:
    check_joint_env(task, {"max_steps": 12} if task != "jumanji-lbf/8x8-2p-2f-coop" else {})


def corrupt_step_2(corrupt: Callable[[StepResult], StepResult | None], **options: Any) -> ToyBatch:
    """A ToyBatch with a corrupted second step after each reset."""
    batch = ToyBatch(B, **options)
    reset, step = batch.reset, batch.step

    def start_counting(seeds: Sequence[int] | None = None) -> BatchObservation:
        batch.steps = 0
        return reset(seeds)

    def corrupted_step(actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        result = step(actions, reset_mask)
        return (corrupt(result) or result) if batch.steps == 2 else result

    batch.reset, batch.step = start_counting, corrupted_step  # type: ignore[method-assign]
    return batch


def with_value(part: str, value: Any, index: Any, **options: Any) -> ToyBatch:
    def corrupt(result: StepResult) -> None:
        getattr(result.observation, part)[index] = value

    return corrupt_step_2(corrupt, **options)


def nan_reward(result: StepResult) -> None:
    result.rewards[1, 2] = np.nan


def bounded() -> ToyBatch:
    batch = with_value("observations", 12.5, (1, 2, 0))
    batch.observation_spaces = tuple(
        spaces.Box(-9.0, 9.0, space.shape, np.float32) for space in batch.observation_spaces
    )
    return batch


def without_copies() -> ToyBatch:
    batch = ToyBatch(B)
    batch.num_envs = 0
    return batch


class OneArray(Walkers):
    """Returns the same array at every step."""

    def see(self) -> BatchObservation:
        self.observation = super().see() if not hasattr(self, "observation") else self.observation
        self.observation.observations[:] = self.places[:, :, None]
        return self.observation


class Clipping(Walkers):
    """Writes into its arguments."""

    def move(self, actions: np.ndarray) -> None:
        super().move(np.minimum(actions, 1, out=actions))


class Unseeded(Walkers):
    """Ignores seeds."""

    def reset(self, seeds: Sequence[int] | None = None) -> BatchObservation:
        return super().reset()


class Staying(Walkers):
    """Does not move copies that restart in mid-episode."""

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        stays = reset_mask & (self.count < self.length)
        places = self.places[stays].copy()
        result = super().step(actions, reset_mask)
        self.places[stays] = places
        return result._replace(observation=self.see())


class GoingOn(Walkers):
    """Steps copies that should restart in mid-episode."""

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        result = super().step(actions, reset_mask & (self.count >= self.length))
        result.rewards[reset_mask] = 0.0
        return result._replace(truncated=result.truncated & ~reset_mask)


class OneStream(Walkers):
    """All copies share the first one's random stream."""

    def reset(self, seeds: Sequence[int] | None = None) -> BatchObservation:
        observation = super().reset(seeds)
        self.rngs = self.rngs[:1] * self.num_envs
        return observation


class IgnoringResets(Walkers):
    """Ignores the reset mask."""

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        return super().step(actions, np.zeros_like(reset_mask))


class WithoutImage(Walkers):
    def render(self) -> np.ndarray:
        return np.zeros(3)


DEFECTS: dict[str, tuple[Callable[[], BatchedSimulator], str]] = {
    "attributes": (
        without_copies,
        "ToyBatch is not a valid batch of teams:\n- It must set `num_envs` to its number of copies. It is 0, not an "
        "integer >= 1.",
    ),
    "form": (
        lambda: corrupt_step_2(lambda result: result._replace(rewards=result.rewards[0])),
        r"each agent's own reward. At step 2: Its shape is \(3,\), not \(3, 3\).",
    ),
    "beginning": (
        lambda: IgnoringResets(B),
        r"with rewards of 0 and no end. At step \d: Copy 0 restarted with rewards of \[.*\]. Follow `reset_mask`.",
    ),
    "observations": (
        lambda: with_value("observations", np.inf, (1, 2, 1)),
        "return finite observations. At step 2: In copy 1, agent 'c' observes inf at entry 1.",
    ),
    "states": (
        lambda: with_value("state", np.nan, (2, 1)),
        "return finite global states. At step 2: In copy 2, the state is nan at entry 1.",
    ),
    "rewards": (
        lambda: corrupt_step_2(nan_reward),
        "return finite rewards. At step 2: In copy 1, the reward of agent 'c' is nan.",
    ),
    "bounds": (
        bounded,
        "return observations within the bounds of their space. At step 2: In copy 1, agent 'c' observes 12.5 at entry "
        "0. Clip it, or widen the space.",
    ),
    "padding": (
        lambda: with_value("observations", 1.5, (1, 2, 2)),
        "pad observations with zeros. At step 2: In copy 1, agent 'c' has 1.5 at entry 2, which is padding. Set",
    ),
    "masks": (
        lambda: with_value("action_mask", False, (1, 2)),
        "leave every living agent a legal action. At step 2: In copy 1, agent 'c' has none; give it a no-op.",
    ),
    "wins": (
        lambda: corrupt_step_2(lambda result: result._replace(wins=None)),
        "return `wins` at every step or never. At step 2: They are missing for the first time.",
    ),
    "arrays": (
        lambda: OneArray(B),
        "leave the arrays of earlier steps unchanged. `observations` of copy 0 at step 0 changed later. Return new",
    ),
    "arguments": (
        lambda: Clipping(B),
        "leave its arguments unchanged. At step 1: It wrote into `actions`: copy it first.",
    ),
    "seeds": (
        lambda: Unseeded(B),
        "play the same episodes for the same seeds and actions. `observations` of copy 0 differed at step 0. Draw "
        "all randomness from generators that `reset` seeds.",
    ),
    "staying": (
        lambda: Staying(B),
        "start a new episode in copies where `reset_mask` is set, also in mid-episode. Copy 2 was to restart at step 3 "
        "but did not change",
    ),
    "going on": (
        lambda: GoingOn(B),
        "start a new episode in copies where `reset_mask` is set, also in mid-episode. Copy 2 was to restart at step 3 "
        "but continued",
    ),
    "independence": (
        lambda: OneStream(B, noise=0.1),
        "keep copies independent of each other. `observations` of copy 0 at step 4 changes if copy 2 restarts",
    ),
    "final observations": (
        lambda: Walkers(B, resets_itself=True),
        "return the final observation with the last step of an episode. The observation of copy 0 at the end of its "
        "episode, step 5, is the first one of its next episode",
    ),
    "images": (
        lambda: WithoutImage(B, render_mode="rgb_array"),
        "return an image (height, width, 3) from render() with render_mode='rgb_array'. It returned ndarray",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_reported(defect: str) -> None:
    make, message = DEFECTS[defect]
    with pytest.raises(JointEnvError) as raised:
        check_joint_env(make())
    assert message in str(raised.value) or re.search(message, str(raised.value)), raised.value
    assert str(raised.value).count("It must") == 1


@pytest.mark.parametrize("kind", sorted(SELF_RESETTING.keys() - {"long episodes", "terminations only"}))
def test_self_resetting_batches_are_rejected(kind: str) -> None:
    with pytest.raises(JointEnvError):
        check_joint_env(SELF_RESETTING[kind](B, resets_itself=True))
