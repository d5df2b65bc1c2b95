"""RMSNorm as a torch function on numba kernels: one pass over the rows in each direction."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rllib_seqmarl.ops.numba_math import kernel
from rllib_seqmarl.ops.numba_support import arrays, over_batch
from rllib_seqmarl.ops.rms_norm import reference_rms_norm

SMALL = 1 << 15  # numbers; below, the call of a kernel takes longer than torch's chain of operations


@kernel
def _scale(x: Any, row: Any, eps: Any) -> Any:
    """1 / sqrt(mean(x[row]^2) + eps)."""
    total, one = x.dtype.type(0), x.dtype.type(1)
    for i in range(x.shape[1]):
        total += x[row, i] * x[row, i]
    return one / math.sqrt(total / x.dtype.type(x.shape[1]) + eps)


@kernel
def _forward(begin: Any, end: Any, x: Any, weight: Any, eps: Any, y: Any) -> None:
    """x, y (rows, dim), weight (dim,)."""
    for row in range(begin, end):
        scale = _scale(x, row, eps)
        for i in range(len(weight)):
            y[row, i] = x[row, i] * scale * weight[i]


@kernel
def _backward(begin: Any, end: Any, x: Any, weight: Any, eps: Any, grad: Any, grad_x: Any) -> Any:
    """Fill grad_x from the gradient of the output, and return that of the weight."""
    grad_weight = np.zeros_like(weight)
    for row in range(begin, end):
        scale = _scale(x, row, eps)
        total = x.dtype.type(0)
        for i in range(len(weight)):
            total += grad[row, i] * weight[i] * x[row, i]
        shift = total * scale * scale / x.dtype.type(len(weight))
        for i in range(len(weight)):
            grad_x[row, i] = scale * (grad[row, i] * weight[i] - shift * x[row, i])
            grad_weight[i] += grad[row, i] * x[row, i] * scale
    return grad_weight


class _NumbaRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows, scale = arrays(x.view(-1, len(weight)), weight)
        ctx.eps = rows.dtype.type(eps)
        y = torch.empty_like(x)
        over_batch(_forward, len(rows), rows.size, rows, scale, ctx.eps, y.view(-1, len(weight)).numpy())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        rows, grads, grads_x = (t.view(-1, len(weight)) for t in (x, grad.contiguous(), grad_x))
        inputs = *arrays(rows, weight), ctx.eps, *arrays(grads, grads_x)
        return grad_x, torch.from_numpy(sum(over_batch(_backward, len(rows), x.numel(), *inputs))), None


def numba_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Backend "numba" of ``rms_norm``."""
    if x.numel() < SMALL:
        return reference_rms_norm(x, weight, eps)
    y: Tensor = _NumbaRMSNorm.apply(x.contiguous(), weight, eps)
    return y
