"""The selective scan of Mamba (Gu and Dao 2023, arXiv 2312.00752, eq. 2 and algorithm 2).

For channel d and state s of a sequence, with input u, step size delta, and an optional gate silu(z):

    h_t[d, s] = exp(delta_t[d] A[d, s]) h_{t-1}[d, s] + delta_t[d] B_t[s] u_t[d]
    y_t[d]    = (sum_s C_t[s] h_t[d, s] + D[d] u_t[d]) silu(z_t[d])

Names, order and layouts of the arguments are those of mamba-ssm's ``selective_scan_fn``.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rllib_seqmarl.ops.backends import (
    AUTO,
    Operation,
    check_shapes,
    cuda_backend,
    first_state,
    promote_dtypes,
    reference_backend,
    reset_state,
)
from rllib_seqmarl.ops.numba_support import numba_backend

# Larger step sizes forget everything (A is -1 or less at initialisation); the bound keeps delta B u finite.
MAX_DELTA = 20.0


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    resets: Tensor | None = None,
    delta_proj: Tensor | None = None,
    backend: str = AUTO,
) -> Any:
    """Scan sequences; the keywords of all operations are described in :mod:`rllib_seqmarl.ops`.

    Memory is used without copies where channels are adjacent: pass a (batch, length, dim) tensor as ``x.mT``.

    Args:
        u: Input (batch, dim, length).
        delta: Step sizes (batch, dim, length), or (batch, rank, length) with ``delta_proj``.
        A: (dim, state), negative.
        B: (batch, state, length).
        C: (batch, state, length).
        D: Weight (dim,) of the skip connection from the input.
        z: Gate (batch, dim, length).
        delta_bias: (dim,), added to ``delta``.
        delta_softplus: Whether step sizes are softplus(delta + delta_bias), bounded by 20.
        initial_state: (batch, dim, state).
        delta_proj: (dim, rank), projects a low-rank ``delta`` to step sizes; not in mamba-ssm's signature, it saves
            memory traffic.

    Returns:
        y (batch, dim, length), and if requested the last state (batch, dim, state).
    """
    batch_size, dim, length = u.shape
    full = u.shape if delta_proj is None else (batch_size, delta_proj.shape[-1], length)
    B_shape, state_shape = (batch_size, A.shape[-1], length), (batch_size, *A.shape)
    check_shapes(
        "u", u, delta=(delta, full), delta_proj=(delta_proj, (dim, full[1])), A=(A, (dim, B_shape[1])), B=(B, B_shape),
        C=(C, B_shape), D=(D, (dim,)), z=(z, u.shape), delta_bias=(delta_bias, (dim,)),
        initial_state=(initial_state, state_shape), resets=(resets, (batch_size, length)),
    )  # fmt: skip
    u, delta, A, B, C, D, z, delta_bias, delta_proj = promote_dtypes(u, delta, A, B, C, D, z, delta_bias, delta_proj)
    scan = SELECTIVE_SCAN.choose(backend, u)
    state = first_state(initial_state, return_last_state, state_shape, u)
    y, last_state = scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, delta_proj, state, resets)
    return (y, last_state) if return_last_state else y


def activated(delta: Tensor, delta_bias: Tensor | None, delta_softplus: bool) -> Tensor:
    """Step sizes from (batch, dim, length) ``delta``."""
    if delta_bias is not None:
        delta = delta + delta_bias.unsqueeze(-1)
    return F.softplus(delta).clamp(max=MAX_DELTA) if delta_softplus else delta


def reference_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, delta_proj: Tensor | None, initial_state: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The recurrence as written, token by token; differentiated by autograd."""
    dtype, inputs = u.dtype, (u, delta, A, B, C, D, z, delta_bias, delta_proj)
    u, delta, A, B, C, D, z, delta_bias, delta_proj = promote_dtypes(*inputs, at_least=torch.float32)
    delta = activated(delta if delta_proj is None else delta_proj @ delta, delta_bias, delta_softplus)
    h = u.new_zeros(u.shape[0], *A.shape) if initial_state is None else initial_state  # (batch, dim, state)
    outputs = []
    tokens = zip(u.unbind(-1), delta.unbind(-1), B.unbind(-1), C.unbind(-1), strict=True)
    for t, (u_t, delta_t, B_t, C_t) in enumerate(tokens):
        h = torch.exp(delta_t.unsqueeze(-1) * A) * reset_state(h, resets, t)
        h = h + (delta_t * u_t).unsqueeze(-1) * B_t.unsqueeze(1)
        outputs.append((h * C_t.unsqueeze(1)).sum(-1))  # (batch, dim)
    y = torch.stack(outputs, dim=-1)
    if D is not None:
        y = y + D.unsqueeze(-1) * u
    return (y if z is None else y * F.silu(z)).to(dtype), h


def _mamba_ssm() -> Callable[..., tuple[Tensor, Tensor | None]]:
    selective_scan_fn = import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn

    def scan(*inputs: Any) -> tuple[Tensor, Tensor | None]:
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, delta_proj, initial_state, resets = inputs
        if initial_state is not None or resets is not None:  # the library has neither
            return reference_scan(*inputs)
        delta = delta if delta_proj is None else delta_proj @ delta
        # The library does not bound step sizes. Softplus is the identity there, so the bound can be applied before it.
        if delta_softplus:
            bias = 0.0 if delta_bias is None else delta_bias.unsqueeze(-1)
            delta, delta_bias = (delta + bias).clamp(max=MAX_DELTA), None
        return selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus), None

    return scan


SELECTIVE_SCAN = Operation(
    "selective_scan",
    [
        cuda_backend("mamba-ssm", _mamba_ssm, "mamba_ssm", "mamba-ssm causal-conv1d"),
        numba_backend("rllib_seqmarl.ops.selective_scan_numba", "numba_scan"),
        reference_backend(
            reference_scan, "plain torch with autograd, several times slower than compiled kernels", is_slow=True
        ),
    ],
)
