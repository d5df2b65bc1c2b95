"""Gradients of a large batch, computed in slices that fit into a CPU's caches, in parallel on its cores.

The objective is a sum over agent-steps, so the gradients of slices sum to that of the batch. On a CPU, activations of a
whole batch do not fit into caches, so that operations on them wait for memory. torch's threads within each small
operation gain little, whereas whole slices run on several cores in parallel.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier
from typing import Any, NamedTuple, TypeVar, cast

import torch
import tree
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_seqmarl.learners.distributed import num_learners, sum_over_learners

TOKENS = 1 << 12  # agent-steps per slice; the fastest of several sizes for embed_dim 64
Result = TypeVar("Result")


class Slice(NamedTuple):
    """Some of a batch's rows: their indices, the number of steps that are kept of windows, and their columns."""

    rows: Any
    length: int | None
    columns: dict[str, Any]

    @property
    def at(self) -> tuple[Any, ...]:
        """The index of the slice in a column."""
        return (self.rows,) if self.length is None else (self.rows, slice(self.length))


def slices(columns: dict[str, Any], shape: Sequence[int], device: torch.device) -> list[Slice]:
    """Split columns into parts of about TOKENS agent-steps; on a GPU, split only windows of very different lengths.

    Windows are sorted by their number of steps, and cut after the longest of a slice: a rollout that is a little longer
    than a window would otherwise cost twice as much.

    Args:
        columns: Tensors (rows, ...), where a row is a step or a window of steps with a LOSS_MASK.
        shape: The shape of agent-steps, (rows, n) or (rows, L, n).
        device: Where the columns are.
    """
    if Columns.LOSS_MASK not in columns:
        cuts = _cuts(0, shape[0], math.prod(shape[1:]), device)
        return [Slice(at, None, tree.map_structure(lambda x, at=at: x[at], columns)) for at in cuts]
    is_step = columns[Columns.LOSS_MASK]  # (rows, L)
    ends = (is_step * torch.arange(1, shape[1] + 1, device=is_step.device)).amax(1)  # after the last step
    lengths, order = ends.clamp_min(1).sort(descending=True, stable=True)
    number, groups = lengths.tolist(), [0]
    for row, length in enumerate(number):
        if 2 * length < number[groups[-1]]:  # else at most half of a slice is padding
            groups.append(row)
    parts = []
    for first, last in zip(groups, [*groups[1:], shape[0]], strict=True):
        for at in _cuts(first, last, number[first] * shape[2], device):
            rows = order[at] if number[0] != number[-1] else at
            parts.append(Slice(rows, number[at.start], _window(columns, rows, number[at.start])))
    return parts


def _cuts(first: int, last: int, tokens: int, device: torch.device) -> list[slice]:
    """Equal parts of rows with that many agent-steps each."""
    rows = last - first
    size = max(1, TOKENS // tokens) if device.type == "cpu" else rows
    number = max(1, round(rows / size))
    cuts = [first + rows * i // number for i in range(number + 1)]
    return [slice(*cut) for cut in zip(cuts, cuts[1:], strict=False)]


def _window(columns: dict[str, Any], rows: Any, length: int) -> dict[str, Any]:
    """The first steps of some windows, with the states before them."""
    states = {key: column for key, column in columns.items() if key == Columns.STATE_IN}
    steps = {key: column for key, column in columns.items() if key != Columns.STATE_IN}
    states = tree.map_structure(lambda x: x[rows], states)
    # Columns (rows,) hold one number for a whole window.
    return states | tree.map_structure(lambda x: x[rows, :length] if x.dim() > 1 else x[rows], steps)


def join_slices(parts: Sequence[Slice], outputs: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """The whole batch's output (*shape, ...) of those of its slices; zeros where windows were cut."""
    whole = outputs[0].new_zeros(*shape, *outputs[0].shape[len(shape) :])
    for part, output in zip(parts, outputs, strict=True):
        whole[part.at] = output
    return whole


def map_slices(function: Callable[[Any], Result], parts: list[Any]) -> list[Result]:
    """Apply `function` to all parts on as many threads as torch uses; results are in order."""
    num_threads = torch.get_num_threads()
    if num_threads == 1 or len(parts) == 1:
        return [function(part) for part in parts]
    return list(_pool(num_threads).map(function, parts))


def add_gradients(gradients: Sequence[tuple[Tensor | None, ...]], loss: Tensor) -> tuple[list[Tensor | None], Tensor]:
    """Sum the slices' gradients (None if no slice has one), and average the sums and the loss over all learners.

    The loss is averaged too, so that all learners agree on whether it is finite.
    """
    present = [i for i, gradient in enumerate(gradients[0]) if gradient is not None]
    totals = [cast(Tensor, gradients[0][i]) for i in present]
    for others in gradients[1:]:
        torch._foreach_add_(totals, [cast(Tensor, others[i]) for i in present])
    if num_learners() > 1:
        flat = torch.cat([*(total.flatten() for total in totals), loss.reshape(1)]) / num_learners()
        sum_over_learners(flat)
        *parts, loss = flat.split([*(total.numel() for total in totals), 1])
        totals = [part.view_as(total) for part, total in zip(parts, totals, strict=True)]
    summed = dict(zip(present, totals, strict=True))
    return [summed.get(i) for i in range(len(gradients[0]))], loss.squeeze()


@lru_cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(num_threads, "rllib_seqmarl_learner", initializer=_use_one_thread)
    # torch.set_num_threads() in a thread also applies to threads started later. So start all threads now (the barrier
    # keeps each one busy until all have started), then restore the number.
    barrier = Barrier(num_threads)
    list(pool.map(lambda _: barrier.wait(), range(num_threads)))
    torch.set_num_threads(num_threads)
    return pool


def _use_one_thread() -> None:
    torch.get_num_threads()  # the first call in a thread resets the number, so call it before setting the number
    torch.set_num_threads(1)
