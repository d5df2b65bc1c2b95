"""Mamba's mixers, token by token: LN(x + core(RMSNorm(x))), with the core's projections and recurrence."""

from typing import Any

import numpy as np

from rllib_seqmarl.mixers.mamba import CrossMamba, Mamba
from rllib_seqmarl.networks.decoding.rows import layer_norm, norm_weights, rms_norm
from rllib_seqmarl.networks.decoding.step import CompiledStep
from rllib_seqmarl.networks.decoding.tiles import affine, array, packed, packed_layer
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
    b: Any, r: Any, u: Any, dt: Any, projected: Any, first_B: Any, C: Any, first_C: Any, highest: Any, A: Any, D: Any,
    z: Any, states: Any, y: Any,
) -> None:  # fmt: skip
    """y[r] = the gated output for u[r], with step sizes dt[r] before their softplus; u, dt and y are overwritten.

    ``projected`` holds B from column ``first_B`` on, and ``C`` holds C from column ``first_C`` on. A (state, channels),
    times log2(e); states (batch, state, channels).
    """
    n_state, channels = A.shape
    zero, one = u.dtype.type(0), u.dtype.type(1)
    for c in range(channels):
        dt[r, c] = min(max(dt[r, c], zero) + log1p(exp(-abs(dt[r, c]))), highest)
    for c in range(channels):
        y[r, c] = D[c] * u[r, c]
        u[r, c] *= dt[r, c]
    for s in range(n_state):
        b_s, c_s = projected[r, first_B + s], C[r, first_C + s]
        for c in range(channels):
            h = exp2(dt[r, c] * A[s, c]) * states[b, s, c] + u[r, c] * b_s
            states[b, s, c] = h
            y[r, c] += c_s * h
    for c in range(channels):
        y[r, c] *= z[r, c] / (one + exp(-z[r, c]))


@kernel
def _step(
    begin: Any, end: Any, x: Any, context: Any, norm: Any, input_in: Any, gate_in: Any, conv: Any, x_proj: Any,
    dt_proj: Any, highest: Any, A: Any, D: Any, out_proj: Any, outer_norm: Any, context_norm: Any, C_proj: Any,
    inputs: Any, states: Any, y: Any,
) -> None:  # fmt: skip
    """Sequences ``begin`` to ``end``. x, context and y (batch, d); projections as `packed`.

    C is projected from the context if ``C_proj`` is not empty.
    """
    rows, d, channels = end - begin, x.shape[1], D.shape[0]
    first_B = len(dt_proj) - 1  # the low-rank step sizes come first
    normed, u, z = scratch(rows, d, D), scratch(rows, channels, D), scratch(rows, channels, D)
    dt, scanned = scratch(rows, channels, D), scratch(rows, channels, D)
    projected = scratch(rows, x_proj.shape[1], D)
    C, first_C = projected, first_B + len(A)
    if len(C_proj) > 0:
        C, first_C = scratch(rows, C_proj.shape[1], D), 0
        for r in range(rows):
            rms_norm(context, begin + r, context_norm, normed, r)
        affine(normed, 0, rows, C_proj, C)
    for r in range(rows):
        rms_norm(x, begin + r, norm, normed, r)
    affine(normed, 0, rows, input_in, u)
    affine(normed, 0, rows, gate_in, z)
    for r in range(rows):
        _convolve(begin + r, r, conv, inputs, u)
    affine(u, 0, rows, x_proj, projected)
    affine(projected, 0, rows, dt_proj, dt)
    for r in range(rows):
        _scan(begin + r, r, u, dt, projected, first_B, C, first_C, highest, A, D, z, states, scanned)
    affine(scanned, 0, rows, out_proj, normed)
    for r in range(rows):
        for i in range(d):
            normed[r, i] += x[begin + r, i]
        layer_norm(normed, r, outer_norm, y, begin + r)


class MambaStep(CompiledStep):
    """Packed weights, the last inputs of the convolution, and the states of the scan."""

    def __init__(self, mixer: Mamba) -> None:
        core = mixer.core
        D, A = array(core.D), array(-core.A_log.exp())
        (channels, n_state), n_inputs = A.shape, core.conv_weight.shape[1]
        input_in, gate_in = array(core.in_proj.weight).reshape(2, channels, -1)
        norm, x_proj, number = norm_weights(mixer.norm), packed_layer(core.x_proj), D.dtype.type
        conv, reading = np.concatenate([array(core.conv_weight).T, array(core.conv_bias)[None]]), (norm, x_proj[:0])
        if isinstance(mixer, CrossMamba):
            reading = norm_weights(mixer.context_norm), packed_layer(mixer.C_proj)
        self.weights = (
            norm, packed(input_in), packed(gate_in), conv, x_proj, packed_layer(core.dt_proj), number(MAX_DELTA),
            np.ascontiguousarray(A.T * number(LOG2_E)), D, packed_layer(core.out_proj), norm_weights(mixer.outer_norm),
            *reading,
        )  # fmt: skip
        d = norm.shape[1]
        # An element of the scan costs about as much as 32 products.
        products = 3 * d * channels + 32 * n_state * channels
        super().__init__(D, d, products, (n_inputs, channels), (n_state, channels))

    def arrays(self, inputs: Any, scan: Any) -> list[Any]:
        # The kernel first drops the oldest input, which the mixer no longer holds.
        return [np.pad(inputs.swapaxes(1, 2), ((0, 0), (1, 0), (0, 0))), scan.swapaxes(1, 2)]

    def leaves(self, inputs: Any, scan: Any) -> list[Any]:
        return [inputs[:, 1:].swapaxes(1, 2), scan.swapaxes(1, 2)]

    def __call__(self, x: Any, context: Any = None) -> Any:
        return self.run(_step, x, x if context is None else context, *self.weights, *self.states)
