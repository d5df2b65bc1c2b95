"""Gradients of a large batch, slice by slice: small enough to stay in a processor's caches, side by side on its cores.

The objective is a sum over agent-steps, so the gradients of slices add up to that of the batch. On a CPU, activations
of a whole batch do not fit into caches and operations on them wait for memory; and torch's own threads within each
small operation gain little, while whole slices run on several cores at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier
from typing import Any, TypeVar, cast

import torch
import tree
from torch import Tensor

from rllib_seqmarl.learners.distributed import num_learners, sum_over_learners

TOKENS = 1 << 12  # agent-steps of a slice; the best of several sizes for embed_dim 64
Result = TypeVar("Result")


def slices(columns: dict[str, Any], rows: int, n_agents: int, device: torch.device) -> list[dict[str, Any]]:
    """The columns (rows, ...) cut into views of about TOKENS agent-steps; whole on a GPU, which wants much at once."""
    size = max(1, TOKENS // n_agents) if device.type == "cpu" else rows
    number = max(1, round(rows / size))
    cuts = [rows * i // number for i in range(number + 1)]
    return [
        tree.map_structure(lambda column, cut=cut: column[slice(*cut)], columns)
        for cut in zip(cuts, cuts[1:], strict=False)
    ]


def map_slices(function: Callable[[Any], Result], parts: list[Any]) -> list[Result]:
    """`function` of all parts, in order; on as many threads as torch has."""
    num_threads = torch.get_num_threads()
    if num_threads == 1 or len(parts) == 1:
        return [function(part) for part in parts]
    return list(_pool(num_threads).map(function, parts))


def add_gradients(gradients: Sequence[tuple[Tensor | None, ...]], loss: Tensor) -> tuple[list[Tensor | None], Tensor]:
    """The slices' gradients added up, None where no slice has one, and the loss; both averaged over all learners.

    The loss travels with the gradients, so that all learners agree on whether it is finite.
    """
    given = [i for i, gradient in enumerate(gradients[0]) if gradient is not None]
    totals = [cast(Tensor, gradients[0][i]) for i in given]
    for others in gradients[1:]:
        torch._foreach_add_(totals, [cast(Tensor, others[i]) for i in given])
    if num_learners() > 1:
        flat = torch.cat([*(total.flatten() for total in totals), loss.reshape(1)]) / num_learners()
        sum_over_learners(flat)
        *parts, loss = flat.split([*(total.numel() for total in totals), 1])
        totals = [part.view_as(total) for part, total in zip(parts, totals, strict=True)]
    found = dict(zip(given, totals, strict=True))
    return [found.get(i) for i in range(len(gradients[0]))], loss.squeeze()


@lru_cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(num_threads, "rllib_seqmarl_learner", initializer=_use_one_thread)
    # What a thread tells torch holds for threads that are started later as well: so all are started now, and then the
    # number is what it was.
    everybody = Barrier(num_threads)
    list(pool.map(lambda _: everybody.wait(), range(num_threads)))
    torch.set_num_threads(num_threads)
    return pool


def _use_one_thread() -> None:
    torch.get_num_threads()  # a thread's number is laid down when it is first asked for, over what was set before
    torch.set_num_threads(1)
