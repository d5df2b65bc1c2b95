"""Kernels for decoding: one token of a batch of teams at a time. Does not import numba.

One token of 32 teams needs so little arithmetic that the overhead of two dozen torch operations is several times as
expensive. Here each mixer, each block's position-wise part and each action head processes a token in one compiled loop,
including matrix products, norms and recurrence. Parameters are packed once per joint decision, and states are numpy
arrays that loops update in place, so they can be copied and pickled. Loops pass tokens to each other as arrays:
converting one to a tensor and back takes as long as a small loop.

Where the kernels cannot run (CUDA, half precision, autocast, no numba, torch.compile), mixers and heads use plain
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rllib_seqmarl.ops.backends import Backend, Operation, is_exporting, no_obstacle, without_gradients
from rllib_seqmarl.ops.numba_support import numba_backend

DECODING = Operation(
    "decoding",
    [
        numba_backend("decoding.tiles", "affine"),
        Backend("reference", lambda: torch.nn.functional.linear, no_obstacle, "plain torch"),
    ],
    auto_aliases=("mamba-ssm", "fla"),
)


def is_compiled(backend: str, like: Tensor) -> bool:
    """Whether steps with parameters like ``like`` run on the kernels of this package.

    They do not while torch.compile or an export is tracing: kernels would break the graph at every token.

    Raises:
        ValueError: ``backend`` requires kernels that cannot run on such tensors.
    """
    if torch.compiler.is_compiling() or is_exporting():
        return False
    return DECODING.resolve_name(backend, like) == "numba" and not torch.is_autocast_enabled("cpu")


def per_agent(x: Tensor, backend: str) -> Sequence[Any]:
    """One entry (batch, ...) per agent of ``x`` (batch, agents, ...): an array if steps are compiled.

    Raises:
        RuntimeError: Steps are compiled, and ``x`` requires gradients.
    """
    if not is_compiled(backend, x):
        return x.unbind(1)
    return list(without_gradients(x).transpose(0, 1).contiguous().numpy())
