"""RWKV-4's WKV as a torch function on numba kernels.

With the running maximum p of the exponents, sums over predecessors are kept in units of e^p, so all factors are at most
one. The output does not depend on p, so the backward pass can treat p as constant.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rllib_seqmarl.ops.numba_math import exp, kernel, scratch
from rllib_seqmarl.ops.numba_support import arrays, flags, over_batch
from rllib_seqmarl.ops.wkv import LOWEST_EXPONENT


@kernel
def _forward(begin: Any, end: Any, w: Any, u: Any, k: Any, v: Any, resets: Any, states: Any, y: Any) -> None:
    """Fill y, and advance the states in place.

    k, v, y (batch, length, dim); states (batch, 3, dim), or (0, 3, dim) to start from zeros and discard them; resets
    (batch, length), or (0, 0) for none.
    """
    _, length, dim = k.shape
    has_states, has_resets = len(states) > 0, len(resets) > 0
    zero, one, lowest = k.dtype.type(0), k.dtype.type(1), k.dtype.type(LOWEST_EXPONENT)
    rows = scratch(3, dim, w)
    total, weight, highest = rows[0], rows[1], rows[2]
    for b in range(begin, end):
        for d in range(dim):
            total[d] = states[b, 0, d] if has_states else zero
            weight[d] = states[b, 1, d] if has_states else zero
            highest[d] = states[b, 2, d] if has_states else lowest
        for t in range(length):
            if has_resets and resets[b, t]:
                for d in range(dim):
                    total[d], weight[d], highest[d] = zero, zero, lowest
            for d in range(dim):
                ahead = highest[d] - u[d] - k[b, t, d]
                small = exp(-abs(ahead))
                old = one if ahead >= zero else small
                new = small if ahead >= zero else one
                y[b, t, d] = (old * total[d] + new * v[b, t, d]) / (old * weight[d] + new)
            for d in range(dim):
                decayed = highest[d] + w[d]
                ahead = decayed - k[b, t, d]
                small = exp(-abs(ahead))
                highest[d] = max(decayed, k[b, t, d])
                old = one if ahead >= zero else small
                new = small if ahead >= zero else one
                weight[d] = old * weight[d] + new
                total[d] = old * total[d] + new * v[b, t, d]
        if has_states:
            for d in range(dim):
                states[b, 0, d], states[b, 1, d], states[b, 2, d] = total[d], weight[d], highest[d]


@kernel
def _backward(
    begin: Any, end: Any, w: Any, u: Any, k: Any, v: Any, resets: Any, states: Any, grad_y: Any, grad_states: Any,
    grad_k: Any, grad_v: Any,
) -> Any:  # fmt: skip
    """Fill the gradients of k and v, and return those of w and u (dim).

    ``states`` holds the states that `_forward` started from. ``grad_states`` holds the gradient of the last states, and
    is overwritten by that of the first; exponents have none.
    """
    _, length, dim = k.shape
    zero, one, lowest = k.dtype.type(0), k.dtype.type(1), k.dtype.type(LOWEST_EXPONENT)
    has_states, has_resets = len(states) > 0, len(resets) > 0
    grad_w, grad_u = np.zeros_like(w), np.zeros_like(u)
    n = length * dim
    planes = scratch(6, n, w)
    # The sums a and b before each token, and the factors of old and new in the output and in the next sums.
    a, b_ = planes[0][:n].reshape(length, dim), planes[1][:n].reshape(length, dim)
    old_out, new_out = planes[2][:n].reshape(length, dim), planes[3][:n].reshape(length, dim)
    old_sum, new_sum = planes[4][:n].reshape(length, dim), planes[5][:n].reshape(length, dim)
    rows = scratch(5, dim, w)
    highest, grad_a, grad_b, g, y = rows[0], rows[1], rows[2], rows[3], rows[4]
    for b in range(begin, end):
        for d in range(dim):
            a[0, d] = states[b, 0, d] if has_states else zero
            b_[0, d] = states[b, 1, d] if has_states else zero
            highest[d] = states[b, 2, d] if has_states else lowest
        for t in range(length):
            if has_resets and resets[b, t]:
                for d in range(dim):
                    a[t, d], b_[t, d], highest[d] = zero, zero, lowest
            for d in range(dim):
                ahead = highest[d] - u[d] - k[b, t, d]
                small = exp(-abs(ahead))
                old_out[t, d] = one if ahead >= zero else small
                new_out[t, d] = small if ahead >= zero else one
            for d in range(dim):
                decayed = highest[d] + w[d]
                ahead = decayed - k[b, t, d]
                small = exp(-abs(ahead))
                highest[d] = max(decayed, k[b, t, d])
                old_sum[t, d] = one if ahead >= zero else small
                new_sum[t, d] = small if ahead >= zero else one
            if t + 1 < length:
                for d in range(dim):
                    a[t + 1, d] = old_sum[t, d] * a[t, d] + new_sum[t, d] * v[b, t, d]
                for d in range(dim):
                    b_[t + 1, d] = old_sum[t, d] * b_[t, d] + new_sum[t, d]
        for d in range(dim):
            grad_a[d] = grad_states[b, 0, d] if has_states else zero
            grad_b[d] = grad_states[b, 1, d] if has_states else zero
        for t in range(length - 1, -1, -1):
            for d in range(dim):
                share = one / (old_out[t, d] * b_[t, d] + new_out[t, d])
                y[d] = (old_out[t, d] * a[t, d] + new_out[t, d] * v[b, t, d]) * share
                g[d] = grad_y[b, t, d] * share
            for d in range(dim):
                grad_v[b, t, d] = new_out[t, d] * g[d] + new_sum[t, d] * grad_a[d]
            for d in range(dim):
                direct = new_out[t, d] * g[d] * (v[b, t, d] - y[d])
                grad_u[d] += direct
                grad_k[b, t, d] = direct + new_sum[t, d] * (grad_a[d] * v[b, t, d] + grad_b[d])
            for d in range(dim):
                grad_w[d] += old_sum[t, d] * (grad_a[d] * a[t, d] + grad_b[d] * b_[t, d])
            for d in range(dim):
                through = old_out[t, d] * g[d]
                grad_a[d] = old_sum[t, d] * grad_a[d] + through
                grad_b[d] = old_sum[t, d] * grad_b[d] - through * y[d]
            if has_resets and resets[b, t]:
                for d in range(dim):
                    grad_a[d] = zero
                    grad_b[d] = zero
        if has_states:
            for d in range(dim):
                grad_states[b, 0, d], grad_states[b, 1, d], grad_states[b, 2, d] = grad_a[d], grad_b[d], zero
    return grad_w, grad_u


class _NumbaWKV4(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, w: Tensor, u: Tensor, k: Tensor, v: Tensor, initial_state: Tensor, resets: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(w, u, k, v, initial_state, resets)
        states = initial_state.clone(memory_format=torch.contiguous_format)
        y = torch.empty_like(k, memory_format=torch.contiguous_format)
        over_batch(_forward, len(k), k.numel(), *arrays(w, u, k, v), flags(resets), states.numpy(), y.numpy())
        return y, states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_last_state: Tensor) -> Any:
        w, u, k, v, initial_state, resets = ctx.saved_tensors
        grad_k, grad_v = (torch.empty_like(y, memory_format=torch.contiguous_format) for y in (k, v))
        grad_states = grad_last_state.clone(memory_format=torch.contiguous_format)
        shares = over_batch(
            _backward, len(k), k.numel(), *arrays(w, u, k, v), flags(resets),
            *arrays(initial_state, grad_y, grad_states, grad_k, grad_v),
        )  # fmt: skip
        grad_w, grad_u = (torch.from_numpy(sum(parts)) for parts in zip(*shares, strict=True))
        return grad_w, grad_u, grad_k, grad_v, grad_states, None


def numba_wkv4(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, initial_state: Tensor | None, resets: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Backend "numba" of ``wkv4``."""
    state = k.new_empty(0, 3, k.shape[2]) if initial_state is None else initial_state
    y, last_state = _NumbaWKV4.apply(w, u, k, v, state, resets)
    return y, last_state
