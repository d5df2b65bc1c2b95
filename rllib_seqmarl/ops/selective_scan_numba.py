"""The selective scan as a torch function on numba kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rllib_seqmarl.ops.numba_math import LOG2_E
from rllib_seqmarl.ops.numba_support import flags, over_batch, rows
from rllib_seqmarl.ops.selective_scan import MAX_DELTA
from rllib_seqmarl.ops.selective_scan_kernels import backward, forward

# Up to this rank, step sizes are projected inside the kernels, which saves writing and reading them in full; beyond it,
# a matrix product is faster.
MAX_FUSED_RANK = 16


class _NumbaScan(torch.autograd.Function):
    """Arguments as in the public function; None if absent, but an absent initial state is of shape (0, dim, state)."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        delta_bias: Tensor | None, delta_softplus: bool, delta_proj: Tensor | None,
        initial_state: Tensor, resets: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        batch_size, dim, length = u.shape
        state = A.shape[1]
        arrays = _inputs(u, delta, A, B, C, D, z, delta_bias, delta_softplus, delta_proj, resets)
        h = initial_state.mT.clone(memory_format=torch.contiguous_format)
        y = u.new_empty(batch_size, length, dim)
        over_batch(forward, batch_size, batch_size * length * state * dim, *arrays, h.numpy(), y.numpy())
        ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, delta_proj, initial_state, resets)
        ctx.delta_softplus = delta_softplus
        return y.mT, h.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_last_state: Tensor) -> Any:
        u, delta, A, B, C, D, z, delta_bias, delta_proj, initial_state, resets = ctx.saved_tensors
        batch_size, dim, length = u.shape
        state = A.shape[1]
        arrays = _inputs(u, delta, A, B, C, D, z, delta_bias, ctx.delta_softplus, delta_proj, resets)
        grad_states = grad_last_state.mT.clone(memory_format=torch.contiguous_format)
        grads = [torch.empty(batch_size, length, x.shape[1], dtype=u.dtype) for x in (u, delta, B, C)]
        grads.append(torch.empty_like(grads[0]) if z is not None else grads[0].new_empty(0, 0, 0))
        shares = over_batch(
            backward, batch_size, batch_size * length * state * dim, *arrays, rows(initial_state), rows(grad_y),
            grad_states.numpy(), *(g.numpy() for g in grads),
        )  # fmt: skip
        grad_A, grad_D, grad_bias, grad_proj = (torch.from_numpy(sum(parts)) for parts in zip(*shares, strict=True))
        grad_u, grad_delta, grad_B, grad_C, grad_z = (g.mT for g in grads)
        return (
            grad_u, grad_delta, grad_A.T, grad_B, grad_C, None if D is None else grad_D, None if z is None else grad_z,
            None if delta_bias is None else grad_bias, None, None if delta_proj is None else grad_proj.T,
            grad_states.mT, None,
        )  # fmt: skip


def _inputs(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, delta_proj: Tensor | None, resets: Tensor | None,
) -> tuple[Any, ...]:  # fmt: skip
    """The leading arguments of both kernels."""
    u_rows = rows(u)
    number = u_rows.dtype.type
    zeros = A.new_zeros(len(A))
    weight = A.new_zeros(0, len(A)) if delta_proj is None else delta_proj.detach().T.contiguous()
    return (
        u_rows, rows(delta), weight.numpy(), (zeros if delta_bias is None else delta_bias.detach()).numpy(),
        delta_softplus, number(MAX_DELTA), (A.detach().T * LOG2_E).contiguous().numpy(), rows(B), rows(C),
        (zeros if D is None else D.detach()).numpy(), u_rows if z is None else rows(z), z is not None,
        flags(resets),
    )  # fmt: skip


def numba_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, delta_proj: Tensor | None, initial_state: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Backend "numba" of ``selective_scan``."""
    if delta_proj is not None and delta_proj.shape[1] > MAX_FUSED_RANK:
        delta, delta_proj = delta_proj @ delta, None
    state = u.new_empty(0, *A.shape) if initial_state is None else initial_state
    y, last_state = _NumbaScan.apply(u, delta, A, B, C, D, z, delta_bias, delta_softplus, delta_proj, state, resets)
    return y, last_state
