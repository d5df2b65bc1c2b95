"""A batch in epochs and minibatches, by index: nothing is copied to be shuffled or sent again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import tree
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch


def minibatches(
    batch: MultiAgentBatch, *, size: int | None, num_epochs: int, shuffle: bool, total: int = 0
) -> Iterator[MultiAgentBatch]:
    """Minibatches of `size` steps that go `num_epochs` times through the batch.

    An epoch's last minibatch is filled up from the next epoch; what would not fill the very last one is left out.

    Args:
        batch: With one module's columns, (B, ...).
        size: Of a minibatch; None, or more than there is, for the whole batch: the same tensors in each epoch.
        num_epochs: How often.
        shuffle: Whether each epoch goes in an order of its own.
        total: With several learners, how many minibatches each of them makes, whatever `size`. They divide all epochs
            equally, so that every step counts alike, however large the share that it is in.

    Raises:
        ValueError: The batch has no steps.
    """
    columns = batch.policy_batches[DEFAULT_MODULE_ID]
    count = len(columns)
    if count == 0:
        raise ValueError("A learner got a batch without steps. Let learner connectors keep some steps of each share.")
    if size is None or (size >= count and not total):
        yield from [batch] * num_epochs
        return
    number = total or num_epochs * count // size
    steps = num_epochs * count if total else number * size
    order = np.empty(0, np.int64)
    for i in range(number):
        wanted = max(1, steps * (i + 1) // number - steps * i // number)
        while len(order) < wanted:
            order = np.concatenate([order, np.random.permutation(count) if shuffle else np.arange(count)])
        rows, order = torch.from_numpy(order[:wanted]), order[wanted:]
        yield MultiAgentBatch({DEFAULT_MODULE_ID: _rows_of(columns, rows)}, env_steps=wanted)


def _rows_of(columns: Any, rows: torch.Tensor) -> SampleBatch:
    return SampleBatch(tree.map_structure(lambda column: column[rows.to(column.device)], dict(columns)))
