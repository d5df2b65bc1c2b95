"""One token of Mamba's core between its matrix products, fused for CPUs: decoding takes it once per agent and module.

Two kernels: convolution with its SiLU, and everything around the scan (projection of step sizes, softplus, recurrence,
the input that passes by, the gate). Numbers are those of ``causal_conv1d_step`` and ``selective_scan_step``; a token of
32 teams has so little arithmetic that calling a dozen operations for it would cost several times as much.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rllib_seqmarl.ops.numba_math import LOG2_E, exp, exp2, kernel, log1p, scratch
from rllib_seqmarl.ops.numba_support import over_batch
from rllib_seqmarl.ops.selective_scan import MAX_DELTA


@kernel
def _conv_step(begin: Any, end: Any, xz: Any, weight: Any, bias: Any, inputs: Any, u: Any) -> None:
    """xz (batch, 2 dim), of which the first half is convolved; weight (width, dim); inputs (batch, width, dim)."""
    width, dim = weight.shape
    one = u.dtype.type(1)
    for b in range(begin, end):
        for d in range(dim):
            u[b, d] = bias[d] + weight[width - 1, d] * xz[b, d]
        for k in range(width - 1):
            for d in range(dim):
                inputs[b, k, d] = inputs[b, k + 1, d]
                u[b, d] += weight[k, d] * inputs[b, k, d]
        for d in range(dim):
            inputs[b, width - 1, d] = xz[b, d]
        for d in range(dim):
            u[b, d] /= one + exp(-u[b, d])


@kernel
def _scan_step(
    begin: Any, end: Any, u: Any, projected: Any, C: Any, first_C: Any, xz: Any, dt_weight: Any, dt_bias: Any,
    highest: Any, A: Any, D: Any, states: Any, y: Any,
) -> None:  # fmt: skip
    """projected (batch, rank + state, ...) holds the low-rank step sizes and B; C begins at column ``first_C`` of its
    array; dt_weight (rank, dim); A (state, dim), times log2(e); states (batch, state, dim)."""
    rank, dim = dt_weight.shape
    zero, one = u.dtype.type(0), u.dtype.type(1)
    planes = scratch(2, dim, D)
    dt, du = planes[0][:dim], planes[1][:dim]
    for b in range(begin, end):
        for d in range(dim):
            dt[d] = dt_bias[d]
        for r in range(rank):
            low = projected[b, r]
            for d in range(dim):
                dt[d] += low * dt_weight[r, d]
        for d in range(dim):
            dt[d] = min(max(dt[d], zero) + log1p(exp(-abs(dt[d]))), highest)
            du[d] = dt[d] * u[b, d]
        for d in range(dim):
            y[b, d] = D[d] * u[b, d]
        for s in range(A.shape[0]):
            b_s, c_s = projected[b, rank + s], C[b, first_C + s]
            for d in range(dim):
                h = exp2(dt[d] * A[s, d]) * states[b, s, d] + du[d] * b_s
                states[b, s, d] = h
                y[b, d] += c_s * h
        for d in range(dim):
            gate = xz[b, dim + d]
            y[b, d] *= gate / (one + exp(-gate))


class MambaStep:
    """The weights of a core and the state of its sequences (batch of them), ready to go on token by token.

    Args:
        inputs: The last inputs of the convolution (batch, dim, width), zeros at first, channels adjacent in memory.
        states: States of the scan (batch, dim, state), likewise. Both are updated in place.
        conv_weight: (dim, width).
        conv_bias: (dim,).
        dt_weight: (dim, rank), what makes step sizes of their low-rank form.
        dt_bias: (dim,).
        A: (dim, state).
        D: (dim,).
    """

    def __init__(
        self, inputs: Tensor, states: Tensor, conv_weight: Tensor, conv_bias: Tensor, dt_weight: Tensor,
        dt_bias: Tensor, A: Tensor, D: Tensor,
    ) -> None:  # fmt: skip
        # Tensors only, of which arrays are taken at every call: a copy of this object then holds together.
        self._inputs, self._states = inputs.mT, states.mT
        self._conv = conv_weight.detach().T.contiguous(), conv_bias.detach()
        self._dt = dt_weight.detach().T.contiguous(), dt_bias.detach()
        self._A, self._D = (A.detach().T * LOG2_E).contiguous(), D.detach()
        self._u, self._y = D.new_empty(len(states), len(D)), D.new_empty(len(states), len(D))
        self._first_C = dt_weight.shape[1] + A.shape[1]

    def convolve(self, xz: Tensor) -> Tensor:
        """silu(convolution) (batch, dim) of the first half of ``xz`` (batch, 2 dim); valid until the next call."""
        self._run(_conv_step, xz, *self._conv, self._inputs, self._u)
        return self._u

    def scan(self, xz: Tensor, projected: Tensor, C: Tensor | None = None) -> Tensor:
        """The gated output (batch, dim) for what :meth:`convolve` made; valid until the next call.

        Args:
            xz: What :meth:`convolve` was given; its second half is the gate.
            projected: (batch, rank + state [+ state]): low-rank step sizes, B, and C unless that is given apart.
            C: (batch, state).
        """
        C, first_C = (projected, self._first_C) if C is None else (C.contiguous(), 0)
        highest = self._D.numpy().dtype.type(MAX_DELTA)
        self._run(
            _scan_step, self._u, projected, C, first_C, xz, *self._dt, highest, self._A, self._D, self._states, self._y
        )
        return self._y

    def _run(self, kernel: Any, *args: Any) -> None:
        """Runs a kernel over the batch; tensors become arrays of the weights' type, which autocast may have left."""
        dtype = self._D.dtype
        arrays = (x.detach().to(dtype).numpy() if isinstance(x, Tensor) else x for x in args)
        over_batch(kernel, len(self._u), self._states.numel(), *arrays)
