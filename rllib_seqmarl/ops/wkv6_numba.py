"""The matrix-state WKV as a torch function on numba kernels."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rllib_seqmarl.ops.numba_support import arrays, flags, over_batch
from rllib_seqmarl.ops.wkv6_kernels import CHUNK, backward, forward


class _NumbaWKV6(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, initial_state: Tensor, resets: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(r, k, v, w, u, initial_state, resets)
        ctx.work = r.numel() * min(r.shape[1], CHUNK)  # every token reads its predecessors in the chunk
        y = torch.empty_like(r, memory_format=torch.contiguous_format)
        states = initial_state.clone(memory_format=torch.contiguous_format)
        inputs = arrays(r, k, v, _with_tokens(w), u)
        over_batch(forward, len(r), ctx.work, *inputs, flags(resets), states.numpy(), y.numpy())
        return y, states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_last_state: Tensor) -> Any:
        r, k, v, w, u, initial_state, resets = ctx.saved_tensors
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (r, k, v, w)]
        grad_states = grad_last_state.clone(memory_format=torch.contiguous_format)
        out = [_with_tokens(grad).numpy() for grad in grads]
        inputs, states = arrays(r, k, v, _with_tokens(w), u), arrays(initial_state, grad_y, grad_states)
        shares = over_batch(backward, len(r), ctx.work, *inputs, flags(resets), *states, *out)
        grad_u, grad_const = (torch.from_numpy(sum(parts)) for parts in zip(*shares, strict=True))
        if out[3].shape[:2] == (1, 1):  # a decay that is constant in time, or a single one
            grads[3] = grad_const.view(w.shape)
        return *grads, grad_u, grad_states, None


def _with_tokens(x: Tensor) -> Tensor:
    """Add sequence and token axes, which kernels expect even for constant decays."""
    return x[None, None] if x.dim() == 2 else x


def numba_wkv6(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, initial_state: Tensor | None, resets: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Backend "numba" of ``wkv6``."""
    state = r.new_empty(0, *u.shape, u.shape[1]) if initial_state is None else initial_state
    y, last_state = _NumbaWKV6.apply(r, k, v, w, u, state, resets)
    return y, last_state
