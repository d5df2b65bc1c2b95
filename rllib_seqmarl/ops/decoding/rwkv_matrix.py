"""Time mixing with a matrix state, RWKV-5's and 6's, for one token after another."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from rllib_seqmarl.ops.decoding.rows import layer_norm
from rllib_seqmarl.ops.decoding.rwkv import remember, shift
from rllib_seqmarl.ops.decoding.step import CompiledStep
from rllib_seqmarl.ops.decoding.tiles import affine, array, packed, packed_each, packed_layer
from rllib_seqmarl.ops.numba_math import exp, kernel, scratch


@kernel
def _read_and_write(b: Any, h: Any, r: Any, k: Any, v: Any, left: Any, bonus: Any, states: Any, y: Any) -> None:
    """Head h of y: what the receptance reads from states[b] and the token itself; then the state decays and takes the
    token in. r, k, v, left (the decay), bonus and y are (heads, size)."""
    size = r.shape[1]
    score = r.dtype.type(0)
    for i in range(size):
        score += r[h, i] * bonus[h, i] * k[h, i]
    for j in range(size):
        y[h, j] = score * v[h, j]
    for i in range(size):
        asked, kept, key = r[h, i], left[h, i], k[h, i]
        for j in range(size):
            y[h, j] += asked * states[b, h, i, j]
            states[b, h, i, j] = kept * states[b, h, i, j] + key * v[h, j]


@kernel
def _mix(
    begin: Any, rows: Any, made: Any, left: Any, bonus: Any, states: Any, norms: Any, output: Any, y: Any
) -> None:  # fmt: skip
    """y[begin + r] = output(norm(read) * silu(gate)) for made[:, r] (4, rows, d...): receptance, key, value, gate.

    left (rows, d...), or (1, d) where decays are constant; norms (heads, 3, size) as of `norm_weights`.
    """
    heads, size = bonus.shape
    d = heads * size
    one = bonus.dtype.type(1)
    found = scratch(rows, d, bonus)
    # One token's, by head: LLVM does not vectorise loops whose index begins in the middle of a row.
    own = np.empty((5, heads, size), bonus.dtype)
    flat = own.reshape(5, d)
    for r in range(rows):
        for i in range(d):
            flat[0, i], flat[1, i], flat[2, i] = made[0, r, i], made[1, r, i], made[2, r, i]
            flat[3, i] = left[min(r, len(left) - 1), i]
        for h in range(heads):
            _read_and_write(begin + r, h, own[0], own[1], own[2], own[3], bonus, states, own[4])
            layer_norm(own[4], h, norms[h], own[4], h)
        for i in range(d):
            gate = made[3, r, i]
            found[r, i] = flat[4, i] * gate / (one + exp(-gate))
    affine(found, 0, rows, output, made[0])
    for r in range(rows):
        for i in range(d):
            y[begin + r, i] = made[0, r, i]


@kernel
def _step5(
    begin: Any, end: Any, x: Any, previous: Any, mix: Any, projections: Any, left: Any, bonus: Any, states: Any,
    norms: Any, output: Any, y: Any,
) -> None:  # fmt: skip
    """x, y (batch, d); mix (4, d) and projections (4, ...), as `packed_each`; left (1, d)."""
    rows, d = end - begin, x.shape[1]
    shifted = scratch(rows, d, bonus)
    made = scratch(4 * rows, d, bonus).reshape(4, rows, -1)
    for m in range(4):
        shift(x, begin, rows, previous, mix, m, shifted)
        affine(shifted, 0, rows, projections[m], made[m])
    remember(x, begin, end, previous)
    _mix(begin, rows, made, left, bonus, states, norms, output, y)


@kernel
def _tanh(x: Any, rows: Any, first: Any, width: Any, y: Any) -> None:
    """y[:rows, :width] = tanh of the columns of x from the ``first`` on."""
    one = y.dtype.type(1)
    for r in range(rows):
        for i in range(width):
            y[r, i] = one - (one + one) / (exp((one + one) * x[r, first + i]) + one)


@kernel
def _step6(
    begin: Any, end: Any, x: Any, previous: Any, first_mix: Any, mix_down: Any, mix_up: Any, projections: Any,
    decay_down: Any, decay_up: Any, highest: Any, bonus: Any, states: Any, norms: Any, output: Any, y: Any,
) -> None:  # fmt: skip
    """x, y (batch, d). first_mix (1, d); mix_up (5, ...), whose biases are the fixed parts of the five shifts, of decay
    and projections; decay_up, the bias of which is the fixed part of the rate; ``highest``: bound on that rate."""
    rows, d = end - begin, x.shape[1]
    rank, decay_rank = mix_up.shape[1] - 1, len(decay_up) - 1
    shifted, mix, left = scratch(rows, d, bonus), scratch(rows, d, bonus), scratch(rows, d, bonus)
    low, part = scratch(rows, max(5 * rank, decay_rank), bonus), scratch(rows, max(rank, decay_rank), bonus)
    mixes = scratch(rows, 5 * rank, bonus)
    made = scratch(4 * rows, d, bonus).reshape(4, rows, -1)
    shift(x, begin, rows, previous, first_mix, 0, shifted)
    affine(shifted, 0, rows, mix_down, mixes)
    for m in range(5):
        _tanh(mixes, rows, m * rank, rank, part)
        affine(part, 0, rows, mix_up[m], mix)
        for r in range(rows):
            for i in range(d):
                towards = previous[begin + r, i] - x[begin + r, i]
                shifted[r, i] = x[begin + r, i] + towards * mix[r, i]
        if m > 0:
            affine(shifted, 0, rows, projections[m - 1], made[m - 1])
        else:
            affine(shifted, 0, rows, decay_down, low)
            _tanh(low, rows, 0, decay_rank, part)
            affine(part, 0, rows, decay_up, left)
            for r in range(rows):
                for i in range(d):
                    left[r, i] = exp(-exp(min(left[r, i], highest)))
    remember(x, begin, end, previous)
    _mix(begin, rows, made, left, bonus, states, norms, output, y)


class MatrixStep(CompiledStep):
    """The last token, matrix states, and what RWKV-5's and 6's time mixing have in common.

    Args:
        batch_size: Sequences that go side by side.
        bonus: Of a token's own key (heads, size).
        gain: Of the norm of each head (heads, size).
        bias: Of the same.
        epsilon: Of the same.
        output: From d to d.
    """

    def __init__(
        self, batch_size: int, bonus: Tensor, gain: Tensor, bias: Tensor, epsilon: float, output: nn.Linear
    ) -> None:
        like = array(bonus)
        heads, size = like.shape
        d = heads * size
        # Four projections, the output, and the state, which takes the time of memory.
        super().__init__(batch_size, like, d, 5 * d * d + 4 * d * size)
        norms = np.empty((heads, 3, size), like.dtype)
        norms[:, 0], norms[:, 1], norms[:, 2] = array(gain), array(bias), epsilon
        self.previous = np.zeros((batch_size, d), like.dtype)
        self.states = np.zeros((batch_size, heads, size, size), like.dtype)
        self.common = like, self.states, norms, packed_layer(output)


class WKV5Step(MatrixStep):
    """Shifts and decays are the same for all tokens.

    Args:
        mix: Of receptance, key, value and gate (4, d).
        projections: The same's weights, one after another (4 d, d).
        decay: Its logarithm (d,).
        common: As of :class:`MatrixStep`.
    """

    def __init__(self, mix: Tensor, projections: Tensor, decay: Tensor, *common: Any) -> None:
        super().__init__(*common)
        d = self.shape[1]
        self.weights = array(mix), packed_each(array(projections).reshape(4, d, d)), array(decay.exp())[None]

    def advance(self, x: Any, context: Any = None) -> Any:
        return self.run(_step5, x, self.previous, *self.weights, *self.common)


class WKV6Step(MatrixStep):
    """Tokens themselves say how far they are shifted and how fast the state decays.

    Args:
        first_mix: Of the first shift (1, d).
        mix_down: (5 rank, d), which makes of it the low-rank forms of the five shifts.
        mix_up: (5, rank, d), which makes those of them.
        mix: (5, d), what is added to them; of decay, receptance, key, value and gate.
        projections: (4 d, d), of the last four.
        decay_down: (decay rank, d), to the low-rank form of the decay.
        decay_up: (d, decay rank), from it to changes of the rate.
        decay: (d,), the rate itself, in logarithms.
        highest: Bound on the rate.
        common: As of :class:`MatrixStep`.
    """

    def __init__(
        self, first_mix: Tensor, mix_down: Tensor, mix_up: Tensor, mix: Tensor, projections: Tensor,
        decay_down: Tensor, decay_up: Tensor, decay: Tensor, highest: float, *common: Any,
    ) -> None:  # fmt: skip
        super().__init__(*common)
        d = self.shape[1]
        self.weights = (
            array(first_mix), packed(array(mix_down)), packed_each(array(mix_up), array(mix), is_turned=True),
            packed_each(array(projections).reshape(4, d, d)), packed(array(decay_down)),
            packed(array(decay_up), array(decay)), self.like.dtype.type(highest),
        )  # fmt: skip

    def advance(self, x: Any, context: Any = None) -> Any:
        return self.run(_step6, x, self.previous, *self.weights, *self.common)
