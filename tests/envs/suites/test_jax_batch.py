"""Tests that copies of a JAX simulator are independent of each other, the batch size, and returned arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

from rllib_seqmarl.envs import make_env
from rllib_seqmarl.envs.batched_simulator import BatchObservation, StepResult
from rllib_seqmarl.envs.suites.jax_batch import RESET_CHUNK_SIZE, JaxBatchedSimulator, JaxSimulator

MANY = RESET_CHUNK_SIZE + 3  # copies, which are reset in more than one chunk


class Drift(JaxSimulator):
    """Two agents on a line, moved by their actions and noise. Terminated beyond 5, truncated after 4 steps."""

    agents = ("left", "right")
    obs_size, num_choices, state_dim = 3, 4, 1

    def reset(self, key: Any) -> Any:
        key, subkey = jax.random.split(key)
        return {"key": key, "position": jax.random.uniform(subkey, (2,)), "steps": 0, "speed": 1}

    def step(self, state: Any, actions: Any) -> Any:
        key, subkey = jax.random.split(state["key"])
        position = state["position"] + actions + jax.random.uniform(subkey, (2,))
        # Python numbers are weakly typed.
        next_state = {"key": key, "position": position, "steps": state["steps"] + 1, "speed": 1}
        terminated = position.max() > 5
        truncated = ~terminated & (next_state["steps"] >= 4)
        return next_state, position, terminated, truncated, (position.min() > 5).astype(jnp.float32)

    def observe(self, state: Any) -> BatchObservation:
        position = state["position"]
        return BatchObservation(
            observations=jnp.stack([position, -position, jnp.full(2, state["steps"], jnp.float32)], axis=1),
            alive=position < 4,
            action_mask=jnp.ones((2, 4), bool),
            state=position[:1],
        )

    def render(self, state: Any) -> np.ndarray:
        return np.full((2, 2, 3), state["steps"], np.uint8)


def leaves(result: StepResult | BatchObservation) -> list[np.ndarray]:
    return jax.tree.leaves(result)


def play(batch: JaxBatchedSimulator, rows: range, steps: int = 25) -> list[StepResult]:
    """Play copies `rows` of a larger batch: episodes after a reset with seeds, then after one without."""
    all_actions = np.random.default_rng(0).integers(0, 4, (2, steps, MANY, 2))
    record: list[StepResult] = []
    for seeds, actions in zip((list(rows), None), all_actions, strict=True):
        obs = batch.reset(seeds)
        reset_mask = np.zeros(batch.num_envs, np.bool_)
        zeros = np.zeros((batch.num_envs, 2), np.float32)
        record.append(StepResult(obs, zeros, reset_mask, reset_mask, zeros[:, 0]))
        for joint in actions:
            record.append(batch.step(joint[rows.start : rows.stop], reset_mask))
            reset_mask = record[-1].terminated | record[-1].truncated
    return record


@pytest.fixture(scope="module")
def drift() -> Drift:
    return Drift()


def test_copies_do_not_depend_on_the_batch_size(drift: Drift) -> None:
    together = play(JaxBatchedSimulator(drift, MANY, None), range(MANY))
    for row in range(MANY):
        alone = play(JaxBatchedSimulator(drift, 1, None), range(row, row + 1))
        for one, many in zip(alone, together, strict=True):
            for a, b in zip(leaves(one), leaves(many), strict=True):
                np.testing.assert_array_equal(a[0], b[row])
    ends = np.array([result.terminated for result in together]), np.array([result.truncated for result in together])
    assert all(end.any() for end in ends)
    assert not (ends[0] & ends[1]).any()


def test_only_copies_that_are_not_reset_are_stepped(drift: Drift) -> None:
    batch = JaxBatchedSimulator(drift, MANY, None)
    batch.reset(list(range(MANY)))
    result = batch.step(np.ones((MANY, 2), np.int64), np.arange(MANY) % 2 == 0)
    steps = result.observation.observations[:, 0, 2]
    np.testing.assert_array_equal(steps, np.arange(MANY) % 2)
    assert (result.rewards[::2] == 0).all() and (result.rewards[1::2] > 1).all()
    assert (result.observation.observations[::2, :, 0] < 1).all()


def test_final_observations_are_returned(drift: Drift) -> None:
    batch = JaxBatchedSimulator(drift, 1, None)
    batch.reset([0])
    no_reset = np.zeros(1, np.bool_)
    for step in range(1, 5):
        result = batch.step(np.zeros((1, 2), np.int64), no_reset)
        assert result.observation.observations[0, 0, 2] == step
    assert result.truncated[0]


def test_seeds_determine_episodes_and_unseeded_resets_continue_the_stream(drift: Drift) -> None:
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


def test_returned_arrays_are_immutable(drift: Drift) -> None:
    batch = JaxBatchedSimulator(drift, MANY, None)
    batch.reset(list(range(MANY)))
    reset_mask = np.zeros(MANY, np.bool_)
    results = [batch.step(np.ones((MANY, 2), np.int64), reset_mask) for _ in range(3)]
    copies = [[leaf.copy() for leaf in leaves(result)] for result in results]
    for _ in range(20):
        batch.step(np.zeros((MANY, 2), np.int64), ~reset_mask)
    for result, copied in zip(results, copies, strict=True):
        for leaf, copy in zip(leaves(result), copied, strict=True):
            np.testing.assert_array_equal(leaf, copy)
            assert not leaf.flags.writeable


def test_dtypes_and_shapes(drift: Drift) -> None:
    batch = JaxBatchedSimulator(drift, 3, None)
    obs = batch.reset([0, 1, 2])
    next_obs, rewards, terminated, truncated, wins = batch.step(np.zeros((3, 2), np.int64), np.zeros(3, np.bool_))
    for one in (obs, next_obs):
        assert [leaf.dtype for leaf in one] == [np.float32, np.bool_, np.bool_, np.float32]  # type: ignore[union-attr]
        assert one.state is not None and one.state.shape == (3, 1)
    assert wins is not None
    assert [a.dtype for a in (rewards, terminated, truncated, wins)] == [np.float32, np.bool_, np.bool_, np.float32]
    assert rewards.shape == (3, 2) and terminated.shape == truncated.shape == wins.shape == (3,)


def test_each_batch_size_is_compiled_once(drift: Drift) -> None:
    traced: list[int] = []

    class CountingDrift(Drift):
        def observe(self, state: Any) -> BatchObservation:
            traced.append(1)
            return super().observe(state)

    counting = CountingDrift()
    for _ in range(2):
        play(JaxBatchedSimulator(counting, 2, None), range(2))
    assert len(traced) == counting.compiled._cache_size() == 1
    play(JaxBatchedSimulator(counting, 3, None), range(3))
    assert len(traced) == 2


def test_the_first_copy_is_rendered(drift: Drift) -> None:
    batch = JaxBatchedSimulator(drift, 2, "rgb_array")
    batch.reset([0, 1])
    batch.step(np.zeros((2, 2), np.int64), np.array([False, True]))
    assert (batch.render() == 1).all()


def test_invalid_values_are_rejected(drift: Drift) -> None:
    with pytest.raises(ValueError, match="num_envs=0"):
        JaxBatchedSimulator(drift, 0, None)
    with pytest.raises(ValueError, match="render_mode='human'"):
        JaxBatchedSimulator(drift, 1, "human")


def test_unknown_options_are_rejected() -> None:
    pytest.importorskip("jumanji")
    with pytest.raises(ValueError, match="no option 'num_envs'"):
        make_env("jumanji-lbf/8x8-2p-2f-coop", {"num_envs": 2})
