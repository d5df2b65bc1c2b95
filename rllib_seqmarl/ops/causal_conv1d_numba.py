"""The causal depthwise convolution as a torch function on numba kernels, fused with its SiLU."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rllib_seqmarl.ops.numba_math import exp, kernel, scratch
from rllib_seqmarl.ops.numba_support import arrays, flags, over_batch, rows


@kernel
def _convolve(b: Any, x: Any, weight: Any, bias: Any, resets: Any, out: Any) -> None:
    """out (length, dim) = the convolution of x[b]; weight (width, dim); resets (batch, length), or (0, 0) for none."""
    width = weight.shape[0]
    length, dim = out.shape
    start = 0  # of the episode
    for t in range(length):
        if len(resets) > 0 and resets[b, t]:
            start = t
        for d in range(dim):
            out[t, d] = bias[d]
        for k in range(max(0, width - 1 - t + start), width):
            for d in range(dim):
                out[t, d] += weight[k, d] * x[b, t - width + 1 + k, d]


@kernel
def _forward(begin: Any, end: Any, x: Any, weight: Any, bias: Any, silu: Any, resets: Any, y: Any) -> None:
    """x, y (batch, length, dim); weight (width, dim)."""
    one = x.dtype.type(1)
    for b in range(begin, end):
        _convolve(b, x, weight, bias, resets, y[b])
        if silu:
            for t in range(x.shape[1]):
                for d in range(x.shape[2]):
                    y[b, t, d] /= one + exp(-y[b, t, d])


@kernel
def _silu_backward(b: Any, before: Any, grad_y: Any, silu: Any, grad: Any) -> None:
    one = before.dtype.type(1)
    for t in range(before.shape[0]):
        for d in range(before.shape[1]):
            if silu:
                gate = one / (one + exp(-before[t, d]))
                grad[t, d] = grad_y[b, t, d] * gate * (one + before[t, d] * (one - gate))
            else:
                grad[t, d] = grad_y[b, t, d]


@kernel
def _backward(
    begin: Any, end: Any, x: Any, weight: Any, bias: Any, silu: Any, resets: Any, grad_y: Any, grad_x: Any
) -> Any:  # fmt: skip
    """Fill the gradient of x, and return those of weight (width, dim) and bias."""
    _, length, dim = x.shape
    width = weight.shape[0]
    zero = x.dtype.type(0)
    planes = scratch(2, length * dim, bias)
    before = planes[0][: length * dim].reshape(length, dim)
    grad = planes[1][: length * dim].reshape(length, dim)
    grad_weight, grad_bias = np.zeros_like(weight), np.zeros_like(bias)
    for b in range(begin, end):
        _convolve(b, x, weight, bias, resets, before)
        _silu_backward(b, before, grad_y, silu, grad)
        start = 0  # of the episode
        for t in range(length):
            if len(resets) > 0 and resets[b, t]:
                start = t
            for d in range(dim):
                grad_bias[d] += grad[t, d]
            for d in range(dim):
                grad_x[b, t, d] = zero
            for k in range(max(0, width - 1 - t + start), width):
                for d in range(dim):
                    grad_x[b, t - width + 1 + k, d] += weight[k, d] * grad[t, d]
                for d in range(dim):
                    grad_weight[k, d] += x[b, t - width + 1 + k, d] * grad[t, d]
    return grad_weight, grad_bias


class _NumbaConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, resets: Tensor | None
    ) -> Tensor:
        batch_size, dim, length = x.shape
        taps, offset = arrays(weight.T, weight.new_zeros(dim) if bias is None else bias)
        ctx.arguments = rows(x), taps, offset, activation is not None, flags(resets)
        ctx.save_for_backward(x, weight, bias)
        y = x.new_empty(batch_size, length, dim)
        over_batch(_forward, batch_size, x.numel() * weight.shape[1], *ctx.arguments, y.numpy())
        return y.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> Any:
        x, weight, bias = ctx.saved_tensors
        batch_size, dim, length = x.shape
        grad_x = x.new_empty(batch_size, length, dim)
        shares = over_batch(
            _backward, batch_size, x.numel() * weight.shape[1], *ctx.arguments, rows(grad_y), grad_x.numpy()
        )
        grad_weight, grad_bias = (torch.from_numpy(sum(parts)) for parts in zip(*shares, strict=True))
        return grad_x.mT, grad_weight.T, None if bias is None else grad_bias, None, None


def numba_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, resets: Tensor | None
) -> Tensor:
    """Backend "numba" of ``causal_conv1d``."""
    y: Tensor = _NumbaConv.apply(x, weight, bias, activation, resets)
    return y
