"""RWKV-4 along the agent axis: the mixers of MARWKV as published (RWKV: Peng et al. 2023, arXiv 2305.13048).

Time mixing reads, per channel, an average of the predecessors' values, weighted towards large keys and recent tokens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rllib_seqmarl.mixers.base import CausalMixer, MixerShape
from rllib_seqmarl.mixers.layers import linear
from rllib_seqmarl.mixers.rwkv_common import ChannelMix, RWKVInit, ShiftedProjections, log_decay
from rllib_seqmarl.ops.decoding import is_compiled
from rllib_seqmarl.ops.token_shift import token_shift
from rllib_seqmarl.ops.wkv import wkv4, wkv4_state, wkv4_step


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

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        shifted = token_shift(x, self.mix, backend=self.backend)
        k, v, r = (F.linear(y, w) for y, w in zip(shifted, self.projections.weight.chunk(3), strict=True))  # (B, n, d)
        wkv = wkv4(log_decay(self.decay), self.bonus, k, v, backend=self.backend)
        return self.output(torch.sigmoid(r) * wkv)

    def initial_state(self, batch_size: int) -> Any:
        decay, sums = log_decay(self.decay), wkv4_state(batch_size, self.decay.detach())
        if is_compiled(self.backend, self.decay):
            from rllib_seqmarl.ops.decoding.rwkv4 import WKV4Step  # deferred: numba is optional

            return WKV4Step(self.mix, self.projections.weight, decay, self.bonus, sums, self.output)
        projections = ShiftedProjections(list(self.projections.weight.chunk(3)), self.mix, batch_size)
        return projections, sums, (decay, self.bonus, self.output.weight)

    def step(self, x: Tensor, state: Any, context: Any = None) -> tuple[Tensor, Any]:
        if not isinstance(state, tuple):  # compiled
            return state(x), state
        projections, sums, (decay, bonus, output_weight) = state
        k, v, r = projections.step(x)  # (B, d)
        wkv = wkv4_step(decay, bonus, k, v, sums)
        return F.linear(torch.sigmoid(r) * wkv, output_weight), state


class RWKV4ChannelMix(ChannelMix):
    """RWKV-4's channel mixing, four times as wide as the tokens."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__(shape, 4 * shape.embed_dim)
