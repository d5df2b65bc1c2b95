"""Retention as a torch function on numba kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rllib_seqmarl.ops.numba_support import arrays, flags, over_batch
from rllib_seqmarl.ops.retention import reference_retention
from rllib_seqmarl.ops.retention_kernels import CHUNK, backward, forward


class _NumbaRetention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, n_agents: int, causal: bool, initial_state: Tensor,
        resets: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.save_for_backward(q, k, v, decay, initial_state, resets)
        ctx.n_agents, ctx.causal = n_agents, causal
        ctx.work = q.numel() * min(q.shape[1], CHUNK)  # every token reads its predecessors in the chunk
        y = torch.empty_like(v, memory_format=torch.contiguous_format)
        states = initial_state.clone(memory_format=torch.contiguous_format)
        inputs = *arrays(q, k, v, decay), n_agents, causal, flags(resets)
        over_batch(forward, len(q), ctx.work, *inputs, states.numpy(), y.numpy())
        return y, states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_last_state: Tensor) -> Any:
        q, k, v, decay, initial_state, resets = ctx.saved_tensors
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
        grad_states = grad_last_state.clone(memory_format=torch.contiguous_format)
        inputs = *arrays(q, k, v, decay), ctx.n_agents, ctx.causal, flags(resets)
        states = arrays(initial_state, grad_y, grad_states)
        over_batch(backward, len(q), ctx.work, *inputs, *states, *arrays(*grads))
        return *grads, None, None, None, grad_states, None


def numba_retention(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, n_agents: int, causal: bool, initial_state: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Backend "numba" of ``retention``."""
    if not causal and n_agents > CHUNK:  # products of large matrices
        return reference_retention(q, k, v, decay, n_agents, causal, initial_state, resets)
    state = q.new_empty(0, *q.shape[2:], v.shape[-1]) if initial_state is None else initial_state
    y, last_state = _NumbaRetention.apply(q, k, v, decay, n_agents, causal, state, resets)
    return y, last_state
