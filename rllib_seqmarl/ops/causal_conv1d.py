"""The short depthwise convolution in front of Mamba's scan (arXiv 2312.00752, section 3.4).

Channel d of token t becomes sum_k weight[d, k] x[t - width + 1 + k, d] + bias[d], with zeros before the first token.
Names and layouts of the arguments are those of causal-conv1d's functions.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from torch import Tensor
from torch.nn import functional as F

from rllib_seqmarl.ops.backends import (
    AUTO,
    Backend,
    Operation,
    check_shapes,
    cuda_library_obstacle,
    no_obstacle,
    promote_dtypes,
    single_step,
)
from rllib_seqmarl.ops.numba_support import numba_backend


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, *, backend: str = AUTO
) -> Tensor:
    """Convolve whole sequences.

    Args:
        x: (batch, dim, length). Memory is used without copies where channels are adjacent: pass a (batch, length, dim)
            tensor as ``x.mT``.
        weight: (dim, width).
        bias: (dim,).
        activation: "silu" or None.
        backend: "auto", or a name from ``CAUSAL_CONV1D.available(device)``.

    Returns:
        (batch, dim, length).

    Raises:
        ValueError: The activation or the backend is unknown, or the backend cannot run here.
    """
    if activation not in (None, "silu"):
        raise ValueError(f"activation must be 'silu' or None, not {activation!r}")
    check_shapes("x", x, weight=(weight, (x.shape[1], weight.shape[-1])), bias=(bias, (x.shape[1],)))
    x, weight, bias = promote_dtypes(x, weight, bias)
    y: Tensor = CAUSAL_CONV1D.choose(backend, x)(x, weight, bias, activation)
    return y


@single_step
def causal_conv1d_step(
    state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """Convolve one token ``x`` (batch, dim), without gradients, in plain torch.

    ``state`` (batch, dim, width) holds the last inputs, zeros before the first token; it is updated in place.
    """
    if state.shape[-1] > 1:
        state[..., :-1] = state[..., 1:].clone()
    state[..., -1] = x
    y = (state * weight).sum(-1)  # (batch, dim)
    y = y if bias is None else y + bias
    return y if activation is None else F.silu(y)


def reference_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """The convolution with torch's own operation."""
    width = weight.shape[1]
    y = F.conv1d(F.pad(x, (width - 1, 0)), weight.unsqueeze(1), bias, groups=len(weight))
    return y if activation is None else F.silu(y)


def _cuda_library() -> Callable[..., Tensor]:
    causal_conv1d_fn = import_module("causal_conv1d").causal_conv1d_fn

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
        dim, width = weight.shape
        if not 2 <= width <= 4 or dim % 8:  # the library has no kernel for these
            return reference_conv1d(x, weight, bias, activation)
        y: Tensor = causal_conv1d_fn(x, weight, bias, activation=activation)
        return y

    return convolve


CAUSAL_CONV1D = Operation(
    "causal_conv1d",
    [
        Backend(
            "mamba-ssm",
            _cuda_library,
            cuda_library_obstacle("causal_conv1d", "mamba-ssm causal-conv1d"),
            "causal-conv1d's fused CUDA kernel",
        ),
        numba_backend("causal_conv1d_numba", "numba_conv1d"),
        Backend("reference", lambda: reference_conv1d, no_obstacle, "torch's own convolution"),
    ],
)
