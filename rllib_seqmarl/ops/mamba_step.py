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
        self._tensors = {
            "weight": conv_weight.detach().T.contiguous(),
            "bias": conv_bias.detach(),
            "inputs": inputs.mT,
            "dt_weight": dt_weight.detach().T.contiguous(),
            "dt_bias": dt_bias.detach(),
            "A": (A.detach().T * LOG2_E).contiguous(),
            "D": D.detach(),
            "states": states.mT,
            "u": D.new_empty(len(states), len(D)),
            "y": D.new_empty(len(states), len(D)),
        }
        self._first_C = dt_weight.shape[1] + A.shape[1]
        self._take_arrays()

    def _take_arrays(self) -> None:
        """The tensors as kernels take them, sharing their memory."""
        self._arrays = {name: tensor.numpy() for name, tensor in self._tensors.items()}
        self._highest = self._arrays["D"].dtype.type(MAX_DELTA)

    def __getstate__(self) -> dict[str, Any]:
        """A copy takes the tensors, and arrays of its own."""
        return {key: value for key, value in vars(self).items() if key not in ("_arrays", "_highest")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._take_arrays()

    def convolve(self, xz: Tensor) -> Tensor:
        """silu(convolution) (batch, dim) of the first half of ``xz`` (batch, 2 dim); valid until the next call."""
        a = self._arrays
        work = a["inputs"].size
        over_batch(_conv_step, len(a["u"]), work, self._rows(xz), a["weight"], a["bias"], a["inputs"], a["u"])
        return self._tensors["u"]

    def scan(self, xz: Tensor, projected: Tensor, C: Tensor | None = None) -> Tensor:
        """The gated output (batch, dim) for what :meth:`convolve` made; valid until the next call.

        Args:
            xz: What :meth:`convolve` was given; its second half is the gate.
            projected: (batch, rank + state [+ state]): low-rank step sizes, B, and C unless that is given apart.
            C: (batch, state).
        """
        a, rows = self._arrays, self._rows(projected)
        C_rows, first_C = (rows, self._first_C) if C is None else (self._rows(C), 0)
        over_batch(
            _scan_step, len(a["u"]), a["states"].size, a["u"], rows, C_rows, first_C, self._rows(xz), a["dt_weight"],
            a["dt_bias"], self._highest, a["A"], a["D"], a["states"], a["y"],
        )  # fmt: skip
        return self._tensors["y"]

    def _rows(self, x: Tensor) -> Any:
        """As an array of the weights' type, which autocast may have left."""
        x = x.detach()
        dtype = self._tensors["D"].dtype
        return (x if x.dtype is dtype else x.to(dtype)).contiguous().numpy()
