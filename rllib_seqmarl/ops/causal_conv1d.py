"""The short depthwise convolution in front of Mamba's scan (arXiv 2312.00752, section 3.4).

Channel d of token t becomes sum_k weight[d, k] x[t - width + 1 + k, d] + bias[d], with zeros before the first token.
The state is the last width - 1 tokens, so a window that starts from a state is one that begins with these tokens.
Names and layouts of the arguments are those of causal-conv1d's functions.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rllib_seqmarl.ops.backends import AUTO, Operation, check_shapes, cuda_backend, promote_dtypes, reference_backend
from rllib_seqmarl.ops.numba_support import numba_backend


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    resets: Tensor | None = None,
    backend: str = AUTO,
) -> Any:
    """Convolve sequences; the keywords of all operations are described in :mod:`rllib_seqmarl.ops`.

    Args:
        x: (batch, dim, length). Memory is used without copies where channels are adjacent: pass a (batch, length, dim)
            tensor as ``x.mT``.
        weight: (dim, width).
        bias: (dim,).
        activation: "silu" or None.
        initial_state: The tokens before the first one (batch, dim, width - 1), oldest first.

    Returns:
        y (batch, dim, length), and if requested the last state (batch, dim, width - 1).
    """
    if activation not in (None, "silu"):
        raise ValueError(f"activation must be 'silu' or None, not {activation!r}")
    batch_size, dim, length = x.shape
    before = weight.shape[-1] - 1
    check_shapes(
        "x", x, weight=(weight, (dim, before + 1)), bias=(bias, (dim,)), resets=(resets, (batch_size, length)),
        initial_state=(initial_state, (batch_size, dim, before)),
    )  # fmt: skip
    x, weight, bias = promote_dtypes(x, weight, bias)
    if initial_state is None and return_last_state:
        initial_state = x.new_zeros(batch_size, dim, before)
    if initial_state is not None:
        # Channels stay adjacent in memory.
        x = torch.cat([initial_state.to(x.dtype).mT, x.mT], dim=1).mT  # (batch, dim, before + length)
        resets = None if resets is None else F.pad(resets, (before, 0))
    y = CAUSAL_CONV1D.choose(backend, x)(x, weight, bias, activation, resets)
    y = y if initial_state is None else y[..., before:]
    return (y, _since_reset(x, resets)[..., length:]) if return_last_state else y


def _since_reset(x: Tensor, resets: Tensor | None) -> Tensor:
    """x (..., length) with zeros before the last reset (batch, length)."""
    if resets is None:
        return x
    episode = resets.cumsum(-1)  # (batch, length)
    return x.masked_fill((episode != episode[..., -1:]).unsqueeze(1), 0)


def reference_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, resets: Tensor | None
) -> Tensor:
    """The convolution with torch's own operation, or with resets as a sum over each token's predecessors."""
    before = weight.shape[1] - 1
    if resets is None:
        y = F.conv1d(F.pad(x, (before, 0)), weight.unsqueeze(1), bias, groups=len(weight))
    else:
        past = F.pad(x, (before, 0)).unfold(-1, before + 1, 1)  # (batch, dim, length, width)
        episode = F.pad(resets.cumsum(-1), (before, 0)).unfold(-1, before + 1, 1).unsqueeze(1)
        y = (past * weight.unsqueeze(1) * (episode == episode[..., -1:])).sum(-1)
        y = y if bias is None else y + bias.unsqueeze(-1)
    return y if activation is None else F.silu(y)


def _cuda_library() -> Callable[..., Tensor]:
    causal_conv1d_fn = import_module("causal_conv1d").causal_conv1d_fn

    def convolve(
        x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, resets: Tensor | None
    ) -> Tensor:
        dim, width = weight.shape
        if not 2 <= width <= 4 or dim % 8 or resets is not None:  # the library has no kernel for these
            return reference_conv1d(x, weight, bias, activation, resets)
        y: Tensor = causal_conv1d_fn(x, weight, bias, activation=activation)
        return y

    return convolve


CAUSAL_CONV1D = Operation(
    "causal_conv1d",
    [
        cuda_backend("mamba-ssm", _cuda_library, "causal_conv1d", "mamba-ssm causal-conv1d"),
        numba_backend("rllib_seqmarl.ops.causal_conv1d_numba", "numba_conv1d"),
        reference_backend(reference_conv1d, "torch's own convolution"),
    ],
)
