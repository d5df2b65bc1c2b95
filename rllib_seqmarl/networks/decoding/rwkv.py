"""RWKV token by token: the token shift, channel mixing, and RWKV-4's time mixing."""

from typing import Any

from rllib_seqmarl.mixers.base import State
from rllib_seqmarl.mixers.rwkv4 import RWKV4TimeMix
from rllib_seqmarl.mixers.rwkv_common import ChannelMix, log_decay
from rllib_seqmarl.networks.decoding.step import CompiledStep
from rllib_seqmarl.networks.decoding.tiles import affine, array, packed_each, packed_layer
from rllib_seqmarl.ops.numba_math import exp, kernel, scratch
from rllib_seqmarl.ops.wkv import LOWEST_EXPONENT


@kernel
def shift(x: Any, begin: Any, rows: Any, previous: Any, mix: Any, m: Any, y: Any) -> None:
    """y[r] = x[begin + r], interpolated towards its predecessor by mix[m]; x, previous (batch, d)."""
    for r in range(rows):
        for i in range(x.shape[1]):
            y[r, i] = x[begin + r, i] + (previous[begin + r, i] - x[begin + r, i]) * mix[m, i]


@kernel
def _mix_channels(
    begin: Any, end: Any, x: Any, previous: Any, mix: Any, key: Any, receptance: Any, value: Any, y: Any
) -> None:  # fmt: skip
    """x, y (batch, d); mix (2, d) for key and receptance; projections as `packed`."""
    rows, d, hidden = end - begin, x.shape[1], len(value) - 1
    zero, one = mix.dtype.type(0), mix.dtype.type(1)
    shifted, gate = scratch(rows, d, mix), scratch(rows, d, mix)
    keys = scratch(rows, hidden, mix)
    shift(x, begin, rows, previous, mix, 0, shifted)
    affine(shifted, 0, rows, key, keys)
    for r in range(rows):
        for i in range(hidden):
            positive = max(keys[r, i], zero)
            keys[r, i] = positive * positive
    shift(x, begin, rows, previous, mix, 1, shifted)
    previous[begin:end] = x[begin:end]
    affine(shifted, 0, rows, receptance, gate)
    affine(keys, 0, rows, value, shifted)
    for r in range(rows):
        for i in range(d):
            y[begin + r, i] = shifted[r, i] / (one + exp(-gate[r, i]))


class ChannelMixStep(CompiledStep):
    """Channel mixing, and the last token."""

    def __init__(self, mixer: ChannelMix) -> None:
        mix = array(mixer.mix)
        self.weights = mix, packed_layer(mixer.key), packed_layer(mixer.receptance), packed_layer(mixer.value)
        d = mix.shape[1]
        super().__init__(mix, d, sum(w.size for w in self.weights[1:]), (d,))

    def __call__(self, x: Any, context: Any = None) -> Any:
        return self.run(_mix_channels, x, *self.states, *self.weights)


@kernel
def _average(b: Any, r: Any, decay: Any, bonus: Any, k: Any, v: Any, sums: Any, y: Any) -> None:
    """y[r] = the average of values so far, weighted towards large keys and recent tokens; then k[r] and v[r] are added
    to sums[b] (3, d): total, weight and the exponent that both are scaled by."""
    one = decay.dtype.type(1)
    for i in range(len(decay)):
        ahead = sums[b, 2, i] - bonus[i] - k[r, i]
        small = exp(-abs(ahead))
        old = one if ahead >= 0 else small
        new = small if ahead >= 0 else one
        y[r, i] = (old * sums[b, 0, i] + new * v[r, i]) / (old * sums[b, 1, i] + new)
    for i in range(len(decay)):
        decayed = sums[b, 2, i] + decay[i]
        ahead = decayed - k[r, i]
        small = exp(-abs(ahead))
        old = one if ahead >= 0 else small
        new = small if ahead >= 0 else one
        sums[b, 0, i] = old * sums[b, 0, i] + new * v[r, i]
        sums[b, 1, i] = old * sums[b, 1, i] + new
        sums[b, 2, i] = max(decayed, k[r, i])


@kernel
def _step(
    begin: Any, end: Any, x: Any, previous: Any, sums: Any, mix: Any, projections: Any, decay: Any, bonus: Any,
    output: Any, y: Any,
) -> None:  # fmt: skip
    """x, y (batch, d); mix (3, d) and projections (3, ...), as `packed_each`, for key, value, receptance."""
    rows, d = end - begin, x.shape[1]
    one = decay.dtype.type(1)
    shifted, wkv = scratch(rows, d, decay), scratch(rows, d, decay)
    k, v, receptance = scratch(rows, d, decay), scratch(rows, d, decay), scratch(rows, d, decay)
    shift(x, begin, rows, previous, mix, 0, shifted)
    affine(shifted, 0, rows, projections[0], k)
    shift(x, begin, rows, previous, mix, 1, shifted)
    affine(shifted, 0, rows, projections[1], v)
    shift(x, begin, rows, previous, mix, 2, shifted)
    affine(shifted, 0, rows, projections[2], receptance)
    previous[begin:end] = x[begin:end]
    for r in range(rows):
        _average(begin + r, r, decay, bonus, k, v, sums, wkv)
        for i in range(d):
            wkv[r, i] /= one + exp(-receptance[r, i])
    affine(wkv, 0, rows, output, shifted)
    y[begin:end] = shifted[:, :d]


class WKV4Step(CompiledStep):
    """Packed weights of RWKV-4's time mixing, the last token, and the sums so far."""

    def __init__(self, mixer: RWKV4TimeMix) -> None:
        mix, bonus, decay = array(mixer.mix), array(mixer.bonus), array(log_decay(mixer.decay))
        d = len(bonus)
        projections = packed_each(array(mixer.projections.weight).reshape(3, d, d))
        self.weights = mix, projections, decay, bonus, packed_layer(mixer.output)
        super().__init__(mix, d, 4 * d * d, (d,), (3, d))

    def start(self, batch_size: int, length: int) -> None:
        super().start(batch_size, length)
        self.states[1][:, 2] = LOWEST_EXPONENT

    def load(self, state: State) -> None:
        super().load(state)
        sums = self.states[1]
        sums[:, 2][sums[:, 1] == 0] = LOWEST_EXPONENT

    def __call__(self, x: Any, context: Any = None) -> Any:
        return self.run(_step, x, *self.states, *self.weights)
