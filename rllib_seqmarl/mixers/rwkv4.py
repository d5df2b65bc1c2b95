"""RWKV-4 along the agent axis: the mixers of MARWKV as published (RWKV: Peng et al. 2023, arXiv 2305.13048).

Time mixing reads, per channel, an average of the predecessors' values, weighted towards large keys and recent tokens.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rllib_seqmarl.mixers.base import CausalMixer, MixerShape, State
from rllib_seqmarl.mixers.layers import linear
from rllib_seqmarl.mixers.rwkv_common import ChannelMix, RWKVInit, log_decay
from rllib_seqmarl.ops.backends import accumulation_dtype
from rllib_seqmarl.ops.token_shift import token_shift
from rllib_seqmarl.ops.wkv import wkv4


class RWKV4TimeMix(CausalMixer):
    """output(sigmoid(receptance) * wkv(key, value)), each of shifted tokens (eq. 11 to 17)."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        d, start = shape.embed_dim, RWKVInit(shape)
        self.backend = shape.backend
        self.mix = nn.Parameter(torch.stack([start.mix(), start.mix(bonus=0.3), start.mix(0.5)]))
        self.projections = linear(d, d, d, d, gain=1.0, bias=False)  # key, value, receptance
        self.decay = nn.Parameter(start.decay(slowest=-5, span=8))
        self.bonus = nn.Parameter(math.log(0.3) + start.alternating(0.5))
        self.output = linear(d, d, bias=False)

    def forward(
        self, x: Tensor, context: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        has_state = state is not None
        previous, sums = (state["previous"], state["sums"]) if has_state else (None, None)
        shifted = token_shift(x, self.mix, initial_state=previous, resets=resets, backend=self.backend)
        k, v, r = (F.linear(y, w) for y, w in zip(shifted, self.projections.weight.chunk(3), strict=True))  # (B, L, d)
        decay = log_decay(self.decay)
        wkv = wkv4(decay, self.bonus, k, v, has_state, initial_state=sums, resets=resets, backend=self.backend)
        wkv, sums = wkv if has_state else (wkv, None)
        y = self.output(torch.sigmoid(r) * wkv)
        return y, {"previous": x[:, -1], "sums": sums} if has_state else None

    def initial_state(self, batch_size: int) -> State:
        zeros, d = self.decay.new_zeros, len(self.decay)
        sums = zeros(batch_size, 3, d, dtype=accumulation_dtype(self.decay.dtype))
        return {"previous": zeros(batch_size, d), "sums": sums}


class RWKV4ChannelMix(ChannelMix):
    """RWKV-4's channel mixing, four times as wide as the tokens."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__(shape, 4 * shape.embed_dim)
