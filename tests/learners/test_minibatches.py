"""Minibatches by index: every step once an epoch, in an order of its own, and nothing copied where all are taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from rllib_seqmarl.learners.minibatches import minibatches


def batch_of(count: int) -> MultiAgentBatch:
    steps = torch.arange(count)
    columns = {"actions": steps, "obs": {"observations": steps[:, None] * 10.0}}
    return MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, env_steps=count)


def steps_of(batch: MultiAgentBatch) -> list[int]:
    columns = batch.policy_batches[DEFAULT_MODULE_ID]
    assert torch.equal(columns["obs"]["observations"][:, 0], columns["actions"] * 10.0)
    assert batch.env_steps() == len(columns["actions"])
    return columns["actions"].tolist()


@pytest.mark.parametrize("size", [None, 6, 7])
def test_a_whole_batch_is_the_same_batch_in_each_epoch(size: int | None) -> None:
    batch = batch_of(6)
    assert all(one is batch for one in minibatches(batch, size=size, num_epochs=3, shuffle=True))
    assert len(list(minibatches(batch, size=size, num_epochs=3, shuffle=True))) == 3


def test_every_epoch_has_every_step_once_in_an_order_of_its_own() -> None:
    np.random.seed(0)
    made = [steps_of(one) for one in minibatches(batch_of(12), size=4, num_epochs=2, shuffle=True)]
    first, second = sum(made[:3], []), sum(made[3:], [])
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_an_epochs_last_minibatch_is_filled_up_from_the_next() -> None:
    made = [steps_of(one) for one in minibatches(batch_of(5), size=2, num_epochs=2, shuffle=False)]
    assert made == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]
    cut = [steps_of(one) for one in minibatches(batch_of(5), size=3, num_epochs=2, shuffle=False)]
    assert cut == [[0, 1, 2], [3, 4, 0], [1, 2, 3]]


@pytest.mark.parametrize(("count", "total", "num_epochs"), [(12, 4, 2), (7, 3, 2), (5, 2, 1), (100, 7, 3)])
def test_learners_with_any_number_of_steps_divide_their_epochs_by_the_same_number(
    count: int, total: int, num_epochs: int
) -> None:
    made = [
        steps_of(one) for one in minibatches(batch_of(count), size=4, num_epochs=num_epochs, shuffle=True, total=total)
    ]
    assert len(made) == total
    assert sorted(sum(made, [])) == sorted(list(range(count)) * num_epochs)
    assert max(map(len, made)) - min(map(len, made)) <= 1


def test_a_share_of_fewer_steps_than_minibatches_repeats_them() -> None:
    made = [steps_of(one) for one in minibatches(batch_of(1), size=4, num_epochs=1, shuffle=False, total=3)]
    assert made == [[0], [0], [0]]


@pytest.mark.parametrize("total", [0, 2])
def test_a_batch_without_steps_is_refused(total: int) -> None:
    with pytest.raises(ValueError, match="without steps"):
        next(minibatches(batch_of(0), size=4, num_epochs=1, shuffle=False, total=total))
