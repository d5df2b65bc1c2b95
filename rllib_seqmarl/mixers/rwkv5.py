"""RWKV-5 (Eagle; Peng et al. 2024, arXiv 2404.05892) along the agent axis, following RWKV's own version 5.2.

Unlike RWKV-4, each head keeps a matrix state, a sum of outer products of keys and values, and the output is gated. The
decay of each key channel is learnt and constant in time.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rllib_seqmarl.mixers.base import MixerShape
from rllib_seqmarl.mixers.rwkv_common import MatrixTimeMix, RWKVInit, log_decay
from rllib_seqmarl.ops.token_shift import token_shift


class RWKV5TimeMix(MatrixTimeMix):
    """Time mixing with a fixed token shift for each projection (section 4.1)."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__(shape)
        start = RWKVInit(shape)
        mixes = [start.mix(0.5), start.mix(), start.mix(bonus=0.3), start.mix(0.5)]  # in the order of the projections
        self.mix = nn.Parameter(torch.stack(mixes))

    def project(self, x: Tensor, previous: Tensor | None, resets: Tensor | None) -> tuple[Tensor, ...]:
        shifted = token_shift(x, self.mix, initial_state=previous, resets=resets, backend=self.backend)
        outputs = (F.linear(y, w) for y, w in zip(shifted, self.projections.weight.chunk(4), strict=True))  # (B, L, d)
        return *outputs, log_decay(self.decay)
