"""The selective scan as a torch function on numba kernels."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rllib_seqmarl.ops.numba_math import LOG2_E
from rllib_seqmarl.ops.numba_support import arrays, flags, over_batch, rows
from rllib_seqmarl.ops.selective_scan import MAX_DELTA
from rllib_seqmarl.ops.selective_scan_kernels import backward, forward

# Up to this rank, step sizes are projected inside the kernels, which saves writing and reading them in full; beyond it,
# a matrix product is faster.
MAX_FUSED_RANK = 16


class _NumbaScan(torch.autograd.Function):
    """``tensors`` are the leading arguments of :func:`_inputs`. An absent initial state has a batch of zero."""

    @staticmethod
    def forward(
        ctx: Any, softplus: bool, gated: bool, resets: Tensor | None, initial_state: Tensor, *tensors: Any
    ) -> tuple[Tensor, Tensor]:
        u, _, A, *_ = tensors
        batch_size, dim, length = u.shape
        ctx.save_for_backward(initial_state, *tensors)
        ctx.options, ctx.work = (softplus, gated, flags(resets)), u.numel() * A.shape[1]
        h = initial_state.mT.clone(memory_format=torch.contiguous_format)
        y = u.new_empty(batch_size, length, dim)
        over_batch(forward, batch_size, ctx.work, *_inputs(*tensors, *ctx.options), h.numpy(), y.numpy())
        return y.mT, h.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_last_state: Tensor) -> Any:
        initial_state, *tensors = ctx.saved_tensors
        u, delta, _, B, C, *_ = tensors
        batch_size, dim, length = u.shape
        gated = ctx.options[1]
        grad_states = grad_last_state.mT.clone(memory_format=torch.contiguous_format)
        grads = [u.new_empty(batch_size, length, x.shape[1]) for x in (u, delta, B, C)]
        grads.append(u.new_empty(batch_size, length, dim) if gated else u.new_empty(0, 0, 0))
        shares = over_batch(
            backward, batch_size, ctx.work, *_inputs(*tensors, *ctx.options), rows(initial_state), rows(grad_y),
            *arrays(grad_states, *grads),
        )  # fmt: skip
        grad_A, grad_D, grad_bias, grad_proj = (torch.from_numpy(sum(parts)) for parts in zip(*shares, strict=True))
        grad_u, grad_delta, grad_B, grad_C, grad_z = (g.mT for g in grads)
        return (
            None, None, None, grad_states.mT, grad_u, grad_delta, grad_A.T, grad_B, grad_C, grad_D,
            grad_z if gated else None, grad_bias, grad_proj,
        )  # fmt: skip


def _inputs(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor,
    delta_proj: Tensor, softplus: bool, gated: bool, resets: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """The leading arguments of both kernels; delta_proj is transposed, with no rows if it is absent."""
    u_rows = rows(u)
    weight, bias, scaled_A, D_row = arrays(delta_proj, delta_bias, A.detach().T * LOG2_E, D)
    return (
        u_rows, rows(delta), weight, bias, softplus, u_rows.dtype.type(MAX_DELTA), scaled_A, rows(B), rows(C), D_row,
        rows(z) if gated else u_rows, gated, resets,
    )  # fmt: skip


def numba_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, delta_proj: Tensor | None, initial_state: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Backend "numba" of ``selective_scan``."""
    if delta_proj is not None and delta_proj.shape[1] > MAX_FUSED_RANK:
        delta, delta_proj = delta_proj @ delta, None
    zeros = A.new_zeros(len(A))
    y, last_state = _NumbaScan.apply(
        delta_softplus, z is not None, resets, u.new_empty(0, *A.shape) if initial_state is None else initial_state,
        u, delta, A, B, C, zeros if D is None else D, u if z is None else z,
        zeros if delta_bias is None else delta_bias,
        A.new_empty(0, len(A)) if delta_proj is None else delta_proj.T,
    )  # fmt: skip
    return y, last_state
