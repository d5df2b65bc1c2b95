"""Minibatches by index: every step once per epoch, a new order in each, and no copies of the whole batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from rllib_seqmarl.learners.minibatches import minibatches


def make_batch(count: int) -> MultiAgentBatch:
    steps = torch.arange(count)
    columns = {"actions": steps, "obs": {"observations": steps[:, None] * 10.0}}
    return MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, env_steps=count)


def steps_of(batch: MultiAgentBatch) -> list[int]:
    columns = batch.policy_batches[DEFAULT_MODULE_ID]
    assert torch.equal(columns["obs"]["observations"][:, 0], columns["actions"] * 10.0)
    assert batch.env_steps() == len(columns["actions"])
    return columns["actions"].tolist()


@pytest.mark.parametrize("size", [None, 6, 7])
def test_a_whole_batch_is_not_copied(size: int | None) -> None:
    batch = make_batch(6)
    assert all(item is batch for item in minibatches(batch, size=size, num_epochs=3, shuffle=True))
    assert len(list(minibatches(batch, size=size, num_epochs=3, shuffle=True))) == 3


def test_every_epoch_has_every_step_once_in_a_new_order() -> None:
    np.random.seed(0)
    steps = [steps_of(item) for item in minibatches(make_batch(12), size=4, num_epochs=2, shuffle=True)]
    first, second = sum(steps[:3], []), sum(steps[3:], [])
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_an_epochs_last_minibatch_is_filled_up_from_the_next() -> None:
    steps = [steps_of(item) for item in minibatches(make_batch(5), size=2, num_epochs=2, shuffle=False)]
    assert steps == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]
    incomplete = [steps_of(item) for item in minibatches(make_batch(5), size=3, num_epochs=2, shuffle=False)]
    assert incomplete == [[0, 1, 2], [3, 4, 0], [1, 2, 3]]


@pytest.mark.parametrize(("count", "total", "num_epochs"), [(12, 4, 2), (7, 3, 2), (5, 2, 1), (100, 7, 3)])
def test_total_overrides_size_and_divides_the_epochs_equally(count: int, total: int, num_epochs: int) -> None:
    batch = make_batch(count)
    iterator = minibatches(batch, size=4, num_epochs=num_epochs, shuffle=True, total=total)
    steps = [steps_of(item) for item in iterator]
    assert len(steps) == total
    assert sorted(sum(steps, [])) == sorted(list(range(count)) * num_epochs)
    assert max(map(len, steps)) - min(map(len, steps)) <= 1


def test_a_share_with_fewer_steps_than_minibatches_repeats_them() -> None:
    steps = [steps_of(item) for item in minibatches(make_batch(1), size=4, num_epochs=1, shuffle=False, total=3)]
    assert steps == [[0], [0], [0]]


@pytest.mark.parametrize("total", [0, 2])
def test_a_batch_without_steps_is_rejected(total: int) -> None:
    with pytest.raises(ValueError, match="without steps"):
        next(minibatches(make_batch(0), size=4, num_epochs=1, shuffle=False, total=total))
