"""Token-by-token parts shared by RWKV's mixers: the token shift and channel mixing."""

from __future__ import annotations

from typing import Any

from rllib_seqmarl.mixers.rwkv_common import ChannelMix
from rllib_seqmarl.networks.decoding.step import CompiledStep
from rllib_seqmarl.networks.decoding.tiles import affine, array, packed_layer
from rllib_seqmarl.ops.numba_math import exp, kernel, scratch


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
