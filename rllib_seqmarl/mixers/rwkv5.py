"""RWKV-5 (Eagle; Peng et al. 2024, arXiv 2404.05892) along the agent axis, as RWKV's own version 5.2.

Beside RWKV-4 a head keeps a matrix of what its keys have collected of the values, and the output is gated. The decay of
each channel of the key is learnt and constant in time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rllib_seqmarl.mixers.base import MixerShape
from rllib_seqmarl.mixers.rwkv_common import MatrixTimeMix, Projected, RWKVInit, ShiftedProjections, log_decay
from rllib_seqmarl.ops.token_shift import token_shift


class RWKV5TimeMix(MatrixTimeMix):
    """Tokens are shifted in fixed ways, one for each projection (section 4.1)."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__(shape)
        start = RWKVInit(shape)
        mixes = [start.mix(0.5), start.mix(), start.mix(bonus=0.3), start.mix(0.5)]  # as the projections
        self.mix = nn.Parameter(torch.stack(mixes))

    def project(self, x: Tensor) -> Projected:
        shifted = token_shift(x, self.mix, backend=self.backend)
        made = (F.linear(y, w) for y, w in zip(shifted, self.projections.weight.chunk(4), strict=True))  # (B, n, d)
        return Projected(log_decay(self.decay), *made)

    def compiled_step(self, *common: Any) -> Any:
        from rllib_seqmarl.ops.decoding.rwkv_matrix import WKV5Step  # here, because numba need not be installed

        return WKV5Step(self.mix, self.projections.weight, log_decay(self.decay), *common)

    def initial_projections(self, batch_size: int) -> tuple[ShiftedProjections, Tensor]:
        weights = list(self.projections.weight.chunk(4))
        return ShiftedProjections(weights, self.mix, batch_size), log_decay(self.decay)

    def project_step(self, x: Tensor, state: tuple[ShiftedProjections, Tensor]) -> Projected:
        projections, decay = state
        return Projected(decay, *projections.step(x))
