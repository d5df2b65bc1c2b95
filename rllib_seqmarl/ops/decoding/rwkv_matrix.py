"""Time mixing with a matrix state (RWKV-5 and RWKV-6), token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from rllib_seqmarl.ops.decoding.rows import layer_norm
from rllib_seqmarl.ops.decoding.rwkv import shift, store_previous
from rllib_seqmarl.ops.decoding.step import CompiledStep
from rllib_seqmarl.ops.decoding.tiles import affine, array, packed, packed_each, packed_layer
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
    for r in range(rows):
        for i in range(d):
            y[begin + r, i] = projected[0, r, i]


@kernel
def _step5(
    begin: Any, end: Any, x: Any, previous: Any, mix: Any, projections: Any, decay: Any, bonus: Any, states: Any,
    norms: Any, output: Any, y: Any,
) -> None:  # fmt: skip
    """x, y (batch, d); mix (4, d) and projections (4, ...), as `packed_each`; decay (1, d)."""
    rows, d = end - begin, x.shape[1]
    shifted = scratch(rows, d, bonus)
    projected = scratch(4 * rows, d, bonus).reshape(4, rows, -1)
    for m in range(4):
        shift(x, begin, rows, previous, mix, m, shifted)
        affine(shifted, 0, rows, projections[m], projected[m])
    store_previous(x, begin, end, previous)
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
    begin: Any, end: Any, x: Any, previous: Any, first_mix: Any, mix_down: Any, mix_up: Any, projections: Any,
    decay_down: Any, decay_up: Any, highest: Any, bonus: Any, states: Any, norms: Any, output: Any, y: Any,
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
    store_previous(x, begin, end, previous)
    _mix(begin, rows, projected, decay, bonus, states, norms, output, y)


class MatrixStep(CompiledStep):
    """The last token, matrix states, and the common weights of RWKV-5's and RWKV-6's time mixing.

    Args:
        batch_size: Number of sequences.
        bonus: Weight of a token's own key (heads, size).
        gain: Gain of each head's norm (heads, size).
        bias: Bias of each head's norm (heads, size).
        epsilon: Epsilon of these norms.
        output: From d to d.
    """

    def __init__(
        self, batch_size: int, bonus: Tensor, gain: Tensor, bias: Tensor, epsilon: float, output: nn.Linear
    ) -> None:
        like = array(bonus)
        heads, size = like.shape
        d = heads * size
        # Four projections, the output, and the state, which is bound by memory bandwidth.
        super().__init__(batch_size, like, d, 5 * d * d + 4 * d * size)
        norms = np.empty((heads, 3, size), like.dtype)
        norms[:, 0], norms[:, 1], norms[:, 2] = array(gain), array(bias), epsilon
        self.previous = np.zeros((batch_size, d), like.dtype)
        self.states = np.zeros((batch_size, heads, size, size), like.dtype)
        self.common = like, self.states, norms, packed_layer(output)


class WKV5Step(MatrixStep):
    """RWKV-5: shifts and decays are the same for all tokens.

    Args:
        mix: Token-shift weights of receptance, key, value and gate (4, d).
        projections: Stacked weights of receptance, key, value and gate (4 d, d).
        decay: Logarithm of the decay (d,).
        common: As of :class:`MatrixStep`.
    """

    def __init__(self, mix: Tensor, projections: Tensor, decay: Tensor, *common: Any) -> None:
        super().__init__(*common)
        d = self.shape[1]
        self.weights = array(mix), packed_each(array(projections).reshape(4, d, d)), array(decay.exp())[None]

    def advance(self, x: Any, context: Any = None) -> Any:
        return self.run(_step5, x, self.previous, *self.weights, *self.common)


class WKV6Step(MatrixStep):
    """RWKV-6: shifts and decays depend on the token.

    Args:
        first_mix: Weights of the first shift (1, d).
        mix_down: (5 rank, d), from the first shift to the low-rank form of the five shifts.
        mix_up: (5, rank, d), from the low-rank form to the five shifts.
        mix: (5, d), the fixed part of the shifts of decay, receptance, key, value and gate.
        projections: (4 d, d), stacked weights of the last four.
        decay_down: (decay rank, d), to the low-rank form of the decay.
        decay_up: (d, decay rank), from the low-rank form to the data-dependent part of the rate.
        decay: (d,), the fixed part of the rate, in logarithms.
        highest: Upper bound on the rate.
        common: As of :class:`MatrixStep`.
    """

    def __init__(
        self, first_mix: Tensor, mix_down: Tensor, mix_up: Tensor, mix: Tensor, projections: Tensor,
        decay_down: Tensor, decay_up: Tensor, decay: Tensor, highest: float, *common: Any,
    ) -> None:  # fmt: skip
        super().__init__(*common)
        d = self.shape[1]
        self.weights = (
            array(first_mix), packed(array(mix_down)), packed_each(array(mix_up), array(mix), is_transposed=True),
            packed_each(array(projections).reshape(4, d, d)), packed(array(decay_down)),
            packed(array(decay_up), array(decay)), self.like.dtype.type(highest),
        )  # fmt: skip

    def advance(self, x: Any, context: Any = None) -> Any:
        return self.run(_step6, x, self.previous, *self.weights, *self.common)
