"""Kernels for decoding: one token of a batch of teams at a time. Does not import numba.

A token of 32 teams has so little arithmetic that calling two dozen torch operations for it costs several times as much.
Here a token's way through a mixer, a block's position-wise part or an action head is one compiled loop each, with its
matrix products, norms and recurrence. What a loop needs of the parameters is packed once per joint decision, and states
are numpy arrays that loops update in place, so they can be copied and pickled. From loop to loop a token goes as an
array: to make a tensor of it and an array again takes as long as a small loop.

Where the kernels cannot run (CUDA, half precision, autocast, no numba, torch.compile), mixers and heads step in plain
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rllib_seqmarl.ops.backends import Backend, Operation, is_exporting, nothing_in_the_way, without_gradients
from rllib_seqmarl.ops.numba_support import numba_backend

DECODING = Operation(
    "decoding",
    [
        numba_backend("decoding.tiles", "affine"),
        Backend("reference", lambda: torch.nn.functional.linear, nothing_in_the_way, "plain torch"),
    ],
    elsewhere=("mamba-ssm", "fla"),
)


def is_compiled(backend: str, like: Tensor) -> bool:
    """Whether steps with parameters like ``like`` run on the kernels of this package.

    Not while torch.compile or an export traces, which cannot look into them: a graph would break at every token.

    Raises:
        ValueError: ``backend`` asks for kernels that cannot run there.
    """
    if torch.compiler.is_compiling() or is_exporting():
        return False
    return DECODING.name_of(backend, like) == "numba" and not torch.is_autocast_enabled("cpu")


def per_agent(x: Tensor, backend: str) -> Sequence[Any]:
    """One entry (batch, ...) for every agent of ``x`` (batch, agents, ...): an array where steps are compiled.

    Raises:
        RuntimeError: They are, and ``x`` is part of a graph for gradients.
    """
    if not is_compiled(backend, x):
        return x.unbind(1)
    return list(without_gradients(x).transpose(0, 1).contiguous().numpy())
