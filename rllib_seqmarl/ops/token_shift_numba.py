"""The token shift as a torch function on numba kernels."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rllib_seqmarl.ops.numba_math import kernel, scratch
from rllib_seqmarl.ops.numba_support import arrays, flags, over_batch


@kernel
def _forward(begin: Any, end: Any, x: Any, mix: Any, own: Any, resets: Any, skipped: Any, out: Any) -> None:
    """x (batch, skipped + length, dim), mix (inputs, dim), out (inputs, batch, length, dim).

    Empty if absent: own like out, resets (batch, length).
    """
    inputs, _, length, dim = out.shape
    difference = scratch(1, dim, x)[0]
    for b in range(begin, end):
        for t in range(length):
            at = t + skipped
            for d in range(dim):
                difference[d] = -x[b, at, d]
            if at > 0 and not (len(resets) > 0 and resets[b, t]):
                for d in range(dim):
                    difference[d] += x[b, at - 1, d]
            for m in range(inputs):
                if own.size > 0:
                    for d in range(dim):
                        out[m, b, t, d] = x[b, at, d] + difference[d] * (mix[m, d] + own[m, b, t, d])
                else:
                    for d in range(dim):
                        out[m, b, t, d] = x[b, at, d] + difference[d] * mix[m, d]


@kernel
def _backward(
    begin: Any, end: Any, m: Any, x: Any, mix: Any, own: Any, resets: Any, skipped: Any, grad: Any, grad_x: Any,
    grad_own: Any,
) -> Any:  # fmt: skip
    """From the gradient of input m: add to that of x, fill that of own, and return that of mix[m]."""
    _, length, dim = grad.shape
    zero = x.dtype.type(0)
    grad_mix = np.zeros(dim, x.dtype)
    grad_shift = scratch(1, dim, x)[0]
    for b in range(begin, end):
        for t in range(length):
            at = t + skipped
            has_predecessor = at > 0 and not (len(resets) > 0 and resets[b, t])
            if own.size > 0:
                for d in range(dim):
                    grad_shift[d] = grad[b, t, d] * (mix[m, d] + own[m, b, t, d])
            else:
                for d in range(dim):
                    grad_shift[d] = grad[b, t, d] * mix[m, d]
            for d in range(dim):
                grad_x[b, at, d] += grad[b, t, d] - grad_shift[d]
            if has_predecessor:
                for d in range(dim):
                    grad_x[b, at - 1, d] += grad_shift[d]
            for d in range(dim):
                before = x[b, at - 1, d] if has_predecessor else zero
                grad_shift[d] = grad[b, t, d] * (before - x[b, at, d])
                grad_mix[d] += grad_shift[d]
            if own.size > 0:
                for d in range(dim):
                    grad_own[m, b, t, d] = grad_shift[d]
    return grad_mix


class _NumbaTokenShift(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mix: Tensor, own: Tensor, resets: Tensor | None, skipped: int
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, mix, own)
        ctx.options = flags(resets), skipped
        out = x.new_empty(len(mix), len(x), x.shape[1] - skipped, x.shape[2])
        over_batch(_forward, len(x), out.numel(), *arrays(x, mix, own), *ctx.options, out.numpy())
        return out.unbind(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, mix, own = ctx.saved_tensors
        grad_x = torch.zeros_like(x, memory_format=torch.contiguous_format)
        grad_own = torch.empty_like(own, memory_format=torch.contiguous_format)
        inputs, grads_of_all = [*arrays(x, mix, own), *ctx.options], arrays(grad_x, grad_own)
        # One input at a time: stacking their gradients would cost as much as reading x for each.
        grad_mix = [
            sum(over_batch(_backward, len(x), x.numel(), m, *inputs, *arrays(grad), *grads_of_all))
            for m, grad in enumerate(grads)
        ]
        return grad_x, torch.from_numpy(np.stack(grad_mix)), grad_own, None, None


def numba_token_shift(
    x: Tensor, mix: Tensor, own: Tensor | None, resets: Tensor | None, has_state: bool
) -> tuple[Tensor, ...]:
    """Backend "numba" of ``token_shift``."""
    own = x.new_empty(0, 0, 0, 0) if own is None else own
    outputs: tuple[Tensor, ...] = _NumbaTokenShift.apply(x, mix, own, resets, int(has_state))
    return outputs
