"""Split a batch into epochs and minibatches by index, without copying or resending the whole batch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import tree
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch


def make_batch(columns: dict[str, Any]) -> MultiAgentBatch:
    """Make RLlib's batch of columns whose rows are steps, or windows of steps with a LOSS_MASK."""
    batch = SampleBatch(columns)
    if Columns.LOSS_MASK in columns:
        batch.count = int(columns[Columns.LOSS_MASK].sum())  # RLlib would count windows
    return MultiAgentBatch({DEFAULT_MODULE_ID: batch}, env_steps=batch.count)


def minibatches(
    batch: MultiAgentBatch, *, size: int | None, num_epochs: int, shuffle: bool, total: int = 0
) -> Iterator[MultiAgentBatch]:
    """Iterate over `num_epochs` epochs of the batch in minibatches of `size` steps.

    Windows of steps are taken whole, and the same number in each minibatch.

    An epoch's last minibatch is filled up from the next epoch; an incomplete last minibatch overall is dropped.

    Args:
        batch: A batch with one module's columns, (B, ...).
        size: The minibatch size; None, or at least the batch size, yields the whole batch itself in each epoch.
        num_epochs: The number of epochs.
        shuffle: Whether to shuffle each epoch separately.
        total: With several learners, the number of minibatches per learner, which overrides `size`. They divide all
            epochs equally, so that every step has equal weight regardless of the size of its share.

    Raises:
        ValueError: The batch has no steps.
    """
    columns = batch.policy_batches[DEFAULT_MODULE_ID]
    count, num_steps = len(columns[Columns.ACTIONS]), len(columns)
    if num_steps == 0:
        raise ValueError(
            "A learner received a batch without steps. Learner connectors must keep some steps of each share."
        )
    if size is None or (size >= num_steps and not total):
        yield from [batch] * num_epochs
        return
    if Columns.LOSS_MASK in columns:
        total = total or max(1, num_epochs * num_steps // size)
    number = total or num_epochs * count // size
    steps = num_epochs * count if total else number * size
    order = np.empty(0, np.int64)
    for i in range(number):
        num_rows = max(1, steps * (i + 1) // number - steps * i // number)
        while len(order) < num_rows:
            order = np.concatenate([order, np.random.permutation(count) if shuffle else np.arange(count)])
        rows, order = torch.from_numpy(order[:num_rows]), order[num_rows:]
        yield make_batch(tree.map_structure(lambda column, rows=rows: column[rows.to(column.device)], dict(columns)))
