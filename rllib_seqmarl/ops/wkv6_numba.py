"""The matrix-state WKV as a torch function on numba kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rllib_seqmarl.ops.numba_support import over_batch
from rllib_seqmarl.ops.wkv import reference_wkv6
from rllib_seqmarl.ops.wkv6_kernels import backward, forward


class _NumbaWKV6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
        ctx.save_for_backward(r, k, v, w, u)
        y = torch.empty_like(r, memory_format=torch.contiguous_format)
        over_batch(forward, len(r), _work(r), *_arrays(r, k, v, w, u), y.numpy())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> Any:
        r, k, v, w, u = ctx.saved_tensors
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (r, k, v, w)]
        arrays = _arrays(r, k, v, w, u)
        out = [_with_tokens(grad).numpy() for grad in grads]
        shares = over_batch(backward, len(r), _work(r), *arrays, *_arrays(grad_y), *out)
        grad_u, grad_const = (torch.from_numpy(sum(parts)) for parts in zip(*shares, strict=True))
        if out[3].shape[:2] == (1, 1):  # a decay that is constant in time, or a single one
            grads[3] = grad_const.view(w.shape)
        return *grads, grad_u


def _with_tokens(x: Tensor) -> Tensor:
    """Add sequence and token axes, which kernels expect even for constant decays."""
    return x[None, None] if x.dim() == 2 else x


def _arrays(*tensors: Tensor) -> list[Any]:
    """Convert r, k, v and optionally w and u to arrays; a constant w gets axes of sequence and token."""
    arrays = [x.detach().contiguous() for x in tensors]
    if len(arrays) == 5:
        arrays[3] = _with_tokens(arrays[3])
    return [x.numpy() for x in arrays]


def _work(r: Tensor) -> int:
    """Elements of work: every token reads its predecessors in the chunk."""
    return r.numel() * min(r.shape[1], 32)


def numba_wkv6(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, initial_state: Tensor | None, resets: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Backend "numba" of ``wkv6``."""
    if initial_state is not None or resets is not None:
        return reference_wkv6(r, k, v, w, u, initial_state, resets)
    y: Tensor = _NumbaWKV6.apply(r, k, v, w, u)
    return y, None
