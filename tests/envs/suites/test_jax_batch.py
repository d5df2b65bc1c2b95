"""Copies of a JAX simulator are independent of each other, of the batch's size, and of what is done with its arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

from rllib_seqmarl.envs import make_env
from rllib_seqmarl.envs.batched_simulator import BatchObservation, StepResult
from rllib_seqmarl.envs.suites.jax_batch import STARTED_TOGETHER, JaxBatchedSimulator, JaxSimulator

MANY = STARTED_TOGETHER + 3  # copies, which start in more than one turn


class Drift(JaxSimulator):
    """Two agents on a line, moved by their actions and by chance. Terminated beyond 5, cut off after 4 steps."""

    agents = ("left", "right")
    obs_size, num_choices, state_dim = 3, 4, 1

    def start(self, key: Any) -> Any:
        key, spent = jax.random.split(key)
        return {"key": key, "place": jax.random.uniform(spent, (2,)), "steps": 0, "speed": 1}

    def move(self, state: Any, actions: Any) -> Any:
        key, spent = jax.random.split(state["key"])
        place = state["place"] + actions + jax.random.uniform(spent, (2,))
        after = {"key": key, "place": place, "steps": state["steps"] + 1, "speed": 1}  # a number is of weak type
        terminated = place.max() > 5
        truncated = ~terminated & (after["steps"] >= 4)
        return after, place, terminated, truncated, (place.min() > 5).astype(jnp.float32)

    def look(self, state: Any) -> BatchObservation:
        place = state["place"]
        return BatchObservation(
            observations=jnp.stack([place, -place, jnp.full(2, state["steps"], jnp.float32)], axis=1),
            alive=place < 4,
            action_mask=jnp.ones((2, 4), bool),
            state=place[:1],
        )

    def draw(self, state: Any) -> np.ndarray:
        return np.full((2, 2, 3), state["steps"], np.uint8)


def leaves(moved: StepResult | BatchObservation) -> list[np.ndarray]:
    return jax.tree.leaves(moved)


def play(batch: JaxBatchedSimulator, rows: range, steps: int = 25) -> list[StepResult]:
    """What copies `rows` play in any batch: episodes after a reset with seeds, then after one without."""
    draws = np.random.default_rng(0).integers(0, 4, (2, steps, MANY, 2))
    record: list[StepResult] = []
    for seeds, actions in zip((list(rows), None), draws, strict=True):
        seen = batch.reset(seeds)
        reset_mask = np.zeros(batch.num_envs, np.bool_)
        nothing = np.zeros((batch.num_envs, 2), np.float32)
        record.append(StepResult(seen, nothing, reset_mask, reset_mask, nothing[:, 0]))
        for joint in actions:
            record.append(batch.step(joint[rows.start : rows.stop], reset_mask))
            reset_mask = record[-1].terminated | record[-1].truncated
    return record


@pytest.fixture(scope="module")
def drift() -> Drift:
    return Drift()


def test_a_copy_in_a_batch_is_what_it_is_alone(drift: Drift) -> None:
    together = play(JaxBatchedSimulator(drift, MANY, None), range(MANY))
    for row in range(MANY):
        alone = play(JaxBatchedSimulator(drift, 1, None), range(row, row + 1))
        for one, many in zip(alone, together, strict=True):
            for a, b in zip(leaves(one), leaves(many), strict=True):
                np.testing.assert_array_equal(a[0], b[row])
    ends = np.array([moved.terminated for moved in together]), np.array([moved.truncated for moved in together])
    assert all(end.any() for end in ends)
    assert not (ends[0] & ends[1]).any()


def test_copies_that_begin_do_not_move_and_the_others_do(drift: Drift) -> None:
    batch = JaxBatchedSimulator(drift, MANY, None)
    batch.reset(list(range(MANY)))
    moved = batch.step(np.ones((MANY, 2), np.int64), np.arange(MANY) % 2 == 0)
    steps = moved.observation.observations[:, 0, 2]
    np.testing.assert_array_equal(steps, np.arange(MANY) % 2)
    assert (moved.rewards[::2] == 0).all() and (moved.rewards[1::2] > 1).all()
    assert (moved.observation.observations[::2, :, 0] < 1).all()


def test_the_last_observation_of_an_episode_is_its_own(drift: Drift) -> None:
    batch = JaxBatchedSimulator(drift, 1, None)
    batch.reset([0])
    go_on = np.zeros(1, np.bool_)
    for step in range(1, 5):
        moved = batch.step(np.zeros((1, 2), np.int64), go_on)
        assert moved.observation.observations[0, 0, 2] == step
    assert moved.truncated[0]


def test_seeds_decide_and_without_them_the_randomness_goes_on(drift: Drift) -> None:
    one, other = JaxBatchedSimulator(drift, 2, None), JaxBatchedSimulator(drift, 2, None)
    first = one.reset([7, 2**40]).observations
    assert not np.array_equal(first[0], first[1])
    second = one.reset().observations
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(other.reset([7, 2**40]).observations, first)
    np.testing.assert_array_equal(other.reset().observations, second)
    np.testing.assert_array_equal(one.reset([7, 2**40]).observations, first)
    unseeded = [JaxBatchedSimulator(drift, 2, None).reset().observations for _ in range(2)]
    assert not np.array_equal(*unseeded) and not np.array_equal(unseeded[0][0], unseeded[0][1])


def test_what_was_returned_stays_as_it_was(drift: Drift) -> None:
    batch = JaxBatchedSimulator(drift, MANY, None)
    batch.reset(list(range(MANY)))
    reset_mask = np.zeros(MANY, np.bool_)
    kept = [batch.step(np.ones((MANY, 2), np.int64), reset_mask) for _ in range(3)]
    copies = [[leaf.copy() for leaf in leaves(moved)] for moved in kept]
    for _ in range(20):
        batch.step(np.zeros((MANY, 2), np.int64), ~reset_mask)
    for moved, copied in zip(kept, copies, strict=True):
        for leaf, copy in zip(leaves(moved), copied, strict=True):
            np.testing.assert_array_equal(leaf, copy)
            assert not leaf.flags.writeable


def test_types_are_those_of_a_team_batch(drift: Drift) -> None:
    batch = JaxBatchedSimulator(drift, 3, None)
    seen = batch.reset([0, 1, 2])
    seen_, rewards, terminated, truncated, wins = batch.step(np.zeros((3, 2), np.int64), np.zeros(3, np.bool_))
    for one in (seen, seen_):
        assert [leaf.dtype for leaf in one] == [np.float32, np.bool_, np.bool_, np.float32]  # type: ignore[union-attr]
        assert one.state is not None and one.state.shape == (3, 1)
    assert wins is not None
    assert [a.dtype for a in (rewards, terminated, truncated, wins)] == [np.float32, np.bool_, np.bool_, np.float32]
    assert rewards.shape == (3, 2) and terminated.shape == truncated.shape == wins.shape == (3,)


def test_each_size_of_batch_is_compiled_once(drift: Drift) -> None:
    traced: list[int] = []

    class Counted(Drift):
        def look(self, state: Any) -> BatchObservation:
            traced.append(1)
            return super().look(state)

    counted = Counted()
    for _ in range(2):
        play(JaxBatchedSimulator(counted, 2, None), range(2))
    assert len(traced) == counted.compiled._cache_size() == 1
    play(JaxBatchedSimulator(counted, 3, None), range(3))
    assert len(traced) == 2


def test_the_first_copy_is_drawn(drift: Drift) -> None:
    batch = JaxBatchedSimulator(drift, 2, "rgb_array")
    batch.reset([0, 1])
    batch.step(np.zeros((2, 2), np.int64), np.array([False, True]))
    assert (batch.render() == 1).all()


def test_wrong_values_are_refused(drift: Drift) -> None:
    with pytest.raises(ValueError, match="num_envs=0"):
        JaxBatchedSimulator(drift, 0, None)
    with pytest.raises(ValueError, match="render_mode='human'"):
        JaxBatchedSimulator(drift, 1, "human")


def test_an_option_that_does_not_exist_is_named() -> None:
    pytest.importorskip("jumanji")
    with pytest.raises(ValueError, match="no option 'num_envs'"):
        make_env("jumanji-lbf/8x8-2p-2f-coop", {"num_envs": 2})
