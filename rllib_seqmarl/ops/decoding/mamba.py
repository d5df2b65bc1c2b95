"""Mamba's mixers, token by token: LN(x + core(RMSNorm(x))), with the core's projections and recurrence.

Results equal those of ``causal_conv1d_step`` and ``selective_scan_step`` between torch's linear layers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from rllib_seqmarl.ops.decoding.rows import layer_norm, norm_weights, rms_norm
from rllib_seqmarl.ops.decoding.step import CompiledStep
from rllib_seqmarl.ops.decoding.tiles import affine, array, packed, packed_layer
from rllib_seqmarl.ops.numba_math import LOG2_E, exp, exp2, kernel, log1p, scratch
from rllib_seqmarl.ops.selective_scan import MAX_DELTA


@kernel
def _convolve(b: Any, r: Any, conv: Any, inputs: Any, u: Any) -> None:
    """Append u[r] to the last inputs[b] (width, channels), and replace it by their convolution with SiLU.

    conv (width + 1, channels), whose last row is the bias.
    """
    width, channels = inputs.shape[1], inputs.shape[2]
    one = u.dtype.type(1)
    for k in range(width - 1):
        for c in range(channels):
            inputs[b, k, c] = inputs[b, k + 1, c]
    for c in range(channels):
        inputs[b, width - 1, c] = u[r, c]
        u[r, c] = conv[width, c]
    for k in range(width):
        for c in range(channels):
            u[r, c] += conv[k, c] * inputs[b, k, c]
    for c in range(channels):
        u[r, c] /= one + exp(-u[r, c])


@kernel
def _scan(
    b: Any, r: Any, u: Any, dt: Any, projected: Any, first_B: Any, C: Any, crossed: Any, highest: Any, A: Any, D: Any,
    z: Any, states: Any, y: Any,
) -> None:  # fmt: skip
    """y[r] = the gated output for u[r], with step sizes dt[r] before their softplus; u, dt and y are overwritten.

    ``projected`` holds B from column ``first_B`` on, followed by C unless C is an input (``crossed``). A (state,
    channels), times log2(e); states (batch, state, channels).
    """
    n_state, channels = A.shape
    zero, one = u.dtype.type(0), u.dtype.type(1)
    for c in range(channels):
        dt[r, c] = min(max(dt[r, c], zero) + log1p(exp(-abs(dt[r, c]))), highest)
    for c in range(channels):
        y[r, c] = D[c] * u[r, c]
        u[r, c] *= dt[r, c]
    for s in range(n_state):
        b_s = projected[r, first_B + s]
        c_s = C[b, s] if crossed else projected[r, first_B + n_state + s]
        for c in range(channels):
            h = exp2(dt[r, c] * A[s, c]) * states[b, s, c] + u[r, c] * b_s
            states[b, s, c] = h
            y[r, c] += c_s * h
    for c in range(channels):
        y[r, c] *= z[r, c] / (one + exp(-z[r, c]))


@kernel
def _step(
    begin: Any, end: Any, x: Any, C: Any, crossed: Any, norm: Any, input_in: Any, gate_in: Any, conv: Any, inputs: Any,
    x_proj: Any, dt_proj: Any, highest: Any, A: Any, D: Any, states: Any, out_proj: Any, outer_norm: Any, y: Any,
) -> None:  # fmt: skip
    """Sequences ``begin`` to ``end``. x, y (batch, d); C (batch, state) if ``crossed``; projections as `packed`."""
    rows, d, channels = end - begin, x.shape[1], D.shape[0]
    first_B = len(dt_proj) - 1  # the low-rank step sizes come first
    normed, u, z = scratch(rows, d, D), scratch(rows, channels, D), scratch(rows, channels, D)
    dt, scanned = scratch(rows, channels, D), scratch(rows, channels, D)
    projected = scratch(rows, x_proj.shape[1], D)
    for r in range(rows):
        rms_norm(x, begin + r, norm, normed, r)
    affine(normed, 0, rows, input_in, u)
    affine(normed, 0, rows, gate_in, z)
    for r in range(rows):
        _convolve(begin + r, r, conv, inputs, u)
    affine(u, 0, rows, x_proj, projected)
    affine(projected, 0, rows, dt_proj, dt)
    for r in range(rows):
        _scan(begin + r, r, u, dt, projected, first_B, C, crossed, highest, A, D, z, states, scanned)
    affine(scanned, 0, rows, out_proj, normed)
    for r in range(rows):
        for i in range(d):
            normed[r, i] += x[begin + r, i]
        layer_norm(normed, r, outer_norm, y, begin + r)


class MambaStep(CompiledStep):
    """Last inputs of the convolution, states of the scan, and the weights of a mixer.

    Args:
        batch_size: Number of sequences.
        norm: RMSNorm before the core.
        in_proj: From d to twice the core's channels, the second half of which is the gate.
        conv: Weight (channels, width) and bias (channels,) of the convolution.
        x_proj: From channels to low-rank step sizes, B, and C unless C is an input of each step.
        dt_proj: From low-rank step sizes to those of the channels.
        A: (channels, state).
        D: (channels,).
        out_proj: From channels to d.
        outer_norm: LayerNorm after the residual.
    """

    def __init__(
        self, batch_size: int, norm: nn.RMSNorm, in_proj: nn.Linear, conv: tuple[Tensor, Tensor], x_proj: nn.Linear,
        dt_proj: nn.Linear, A: Tensor, D: Tensor, out_proj: nn.Linear, outer_norm: nn.LayerNorm,
    ) -> None:  # fmt: skip
        (channels, n_state), width = A.shape, conv[0].shape[1]
        input_in, gate_in = array(in_proj.weight).reshape(2, channels, -1)
        like = array(D)
        number = like.dtype.type
        self.inputs = np.zeros((batch_size, width, channels), like.dtype)
        self.states = np.zeros((batch_size, n_state, channels), like.dtype)
        self.weights = (
            norm_weights(norm), packed(input_in), packed(gate_in),
            np.concatenate([array(conv[0]).T, array(conv[1])[None]]), self.inputs, packed_layer(x_proj),
            packed_layer(dt_proj), number(MAX_DELTA), np.ascontiguousarray(array(A).T * number(LOG2_E)), like,
            self.states, packed_layer(out_proj), norm_weights(outer_norm),
        )  # fmt: skip
        d = len(self.weights[0][0])
        # An element of the scan costs about as much as 32 products.
        super().__init__(batch_size, like, d, 3 * d * channels + 32 * n_state * channels, context_width=n_state)

    def advance(self, x: Any, context: Any = None) -> Any:
        """The output (batch, d) for the next token ``x`` (batch, d); if crossed, the context is C (batch, state)."""
        C = x if context is None else context
        return self.run(_step, x, C, context is not None, *self.weights)
