"""Time mixing with a matrix state (RWKV-5 and RWKV-6), token by token."""

from typing import Any

import numpy as np

from rllib_seqmarl.mixers.rwkv5 import RWKV5TimeMix
from rllib_seqmarl.mixers.rwkv6 import RWKV6TimeMix
from rllib_seqmarl.mixers.rwkv_common import MAX_RATE, NORM_EPSILON, MatrixTimeMix, log_decay
from rllib_seqmarl.networks.decoding.rows import layer_norm
from rllib_seqmarl.networks.decoding.rwkv import shift
from rllib_seqmarl.networks.decoding.step import CompiledStep
from rllib_seqmarl.networks.decoding.tiles import affine, array, packed, packed_each, packed_layer
from rllib_seqmarl.ops.numba_math import exp, kernel, scratch


@kernel
def _read_and_write(b: Any, h: Any, r: Any, k: Any, v: Any, decay: Any, bonus: Any, states: Any, y: Any) -> None:
    """y[h] = what the receptance reads from states[b] and the token itself; then the state decays, and the token is
    added to it. r, k, v, decay, bonus and y are (heads, size)."""
    size = r.shape[1]
    score = r.dtype.type(0)
    for i in range(size):
        score += r[h, i] * bonus[h, i] * k[h, i]
    for j in range(size):
        y[h, j] = score * v[h, j]
    for i in range(size):
        r_i, decay_i, k_i = r[h, i], decay[h, i], k[h, i]
        for j in range(size):
            y[h, j] += r_i * states[b, h, i, j]
            states[b, h, i, j] = decay_i * states[b, h, i, j] + k_i * v[h, j]


@kernel
def _mix(
    begin: Any, rows: Any, projected: Any, decay: Any, bonus: Any, states: Any, norms: Any, output: Any, y: Any
) -> None:  # fmt: skip
    """y[begin + r] = output(norm(read) * silu(gate)) for projected[:, r] (4, rows, d...): receptance, key, value, gate.

    decay (rows, d...), or (1, d) for constant decays; norms (heads, 3, size) as by `norm_weights`.
    """
    heads, size = bonus.shape
    d = heads * size
    one = bonus.dtype.type(1)
    read = scratch(rows, d, bonus)
    # One token by head: LLVM does not vectorise loops whose index starts in the middle of a row.
    token = np.empty((5, heads, size), bonus.dtype)
    flat = token.reshape(5, d)
    for r in range(rows):
        for i in range(d):
            flat[0, i], flat[1, i], flat[2, i] = projected[0, r, i], projected[1, r, i], projected[2, r, i]
            flat[3, i] = decay[min(r, len(decay) - 1), i]
        for h in range(heads):
            _read_and_write(begin + r, h, token[0], token[1], token[2], token[3], bonus, states, token[4])
            layer_norm(token[4], h, norms[h], token[4], h)
        for i in range(d):
            gate = projected[3, r, i]
            read[r, i] = flat[4, i] * gate / (one + exp(-gate))
    affine(read, 0, rows, output, projected[0])
    y[begin : begin + rows] = projected[0, :, :d]


@kernel
def _step5(
    begin: Any, end: Any, x: Any, previous: Any, states: Any, mix: Any, projections: Any, decay: Any, bonus: Any,
    norms: Any, output: Any, y: Any,
) -> None:  # fmt: skip
    """x, y (batch, d); mix (4, d) and projections (4, ...), as `packed_each`; decay (1, d)."""
    rows, d = end - begin, x.shape[1]
    shifted = scratch(rows, d, bonus)
    projected = scratch(4 * rows, d, bonus).reshape(4, rows, -1)
    for m in range(4):
        shift(x, begin, rows, previous, mix, m, shifted)
        affine(shifted, 0, rows, projections[m], projected[m])
    previous[begin:end] = x[begin:end]
    _mix(begin, rows, projected, decay, bonus, states, norms, output, y)


@kernel
def _tanh(x: Any, rows: Any, first: Any, width: Any, y: Any) -> None:
    """y[:rows, :width] = tanh of the columns of x, starting from ``first``."""
    one = y.dtype.type(1)
    for r in range(rows):
        for i in range(width):
            y[r, i] = one - (one + one) / (exp((one + one) * x[r, first + i]) + one)


@kernel
def _step6(
    begin: Any, end: Any, x: Any, previous: Any, states: Any, first_mix: Any, mix_down: Any, mix_up: Any,
    projections: Any, decay_down: Any, decay_up: Any, highest: Any, bonus: Any, norms: Any, output: Any, y: Any,
) -> None:  # fmt: skip
    """x, y (batch, d). first_mix (1, d); mix_up (5, ...), whose biases are the fixed parts of the five shifts (decay,
    then projections); decay_up, whose bias is the fixed part of the rate; ``highest``: upper bound on that rate."""
    rows, d = end - begin, x.shape[1]
    rank, decay_rank = mix_up.shape[1] - 1, len(decay_up) - 1
    shifted, mix, decay = scratch(rows, d, bonus), scratch(rows, d, bonus), scratch(rows, d, bonus)
    low, part = scratch(rows, max(5 * rank, decay_rank), bonus), scratch(rows, max(rank, decay_rank), bonus)
    mixes = scratch(rows, 5 * rank, bonus)
    projected = scratch(4 * rows, d, bonus).reshape(4, rows, -1)
    shift(x, begin, rows, previous, first_mix, 0, shifted)
    affine(shifted, 0, rows, mix_down, mixes)
    for m in range(5):
        _tanh(mixes, rows, m * rank, rank, part)
        affine(part, 0, rows, mix_up[m], mix)
        for r in range(rows):
            for i in range(d):
                difference = previous[begin + r, i] - x[begin + r, i]
                shifted[r, i] = x[begin + r, i] + difference * mix[r, i]
        if m > 0:
            affine(shifted, 0, rows, projections[m - 1], projected[m - 1])
        else:
            affine(shifted, 0, rows, decay_down, low)
            _tanh(low, rows, 0, decay_rank, part)
            affine(part, 0, rows, decay_up, decay)
            for r in range(rows):
                for i in range(d):
                    decay[r, i] = exp(-exp(min(decay[r, i], highest)))
    previous[begin:end] = x[begin:end]
    _mix(begin, rows, projected, decay, bonus, states, norms, output, y)


class MatrixStep(CompiledStep):
    """The last token, matrix states, and the weights that RWKV-5's and RWKV-6's time mixing have in common."""

    def __init__(self, mixer: MatrixTimeMix) -> None:
        bonus = array(mixer.bonus)
        heads, size = bonus.shape
        norms = np.empty((heads, 3, size), bonus.dtype)
        norms[:, 0], norms[:, 1], norms[:, 2] = array(mixer.norm.weight), NORM_EPSILON, array(mixer.norm.bias)
        d = heads * size
        self.projections = packed_each(array(mixer.projections.weight).reshape(4, d, d))
        self.common = bonus, norms, packed_layer(mixer.output)
        # Four projections, the output, and the state, which is bound by memory bandwidth.
        super().__init__(bonus, d, 5 * d * d + 4 * d * size, (d,), (heads, size, size))


class WKV5Step(MatrixStep):
    """RWKV-5: shifts and decays are the same for all tokens."""

    def __init__(self, mixer: RWKV5TimeMix) -> None:
        super().__init__(mixer)
        self.weights = array(mixer.mix), self.projections, array(log_decay(mixer.decay).exp())[None]

    def __call__(self, x: Any, context: Any = None) -> Any:
        return self.run(_step5, x, *self.states, *self.weights, *self.common)


class WKV6Step(MatrixStep):
    """RWKV-6: shifts and decays depend on the token. Fixed parts of shifts and rates are packed as biases."""

    def __init__(self, mixer: RWKV6TimeMix) -> None:
        super().__init__(mixer)
        self.weights = (
            array(mixer.first_mix), packed(array(mixer.mix_down)),
            packed_each(array(mixer.mix_up), array(mixer.mix), is_transposed=True), self.projections,
            packed(array(mixer.decay_down)), packed(array(mixer.decay_up), array(mixer.decay)),
            self.dtype.type(MAX_RATE),
        )  # fmt: skip

    def __call__(self, x: Any, context: Any = None) -> Any:
        return self.run(_step6, x, *self.states, *self.weights, *self.common)
