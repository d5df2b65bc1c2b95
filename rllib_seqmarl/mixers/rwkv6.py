"""RWKV-6 (Finch; Peng et al. 2024, arXiv 2404.05892) along the agent axis, following RWKV's own x060.

Unlike RWKV-5, token shifts and decays depend on the token, through low-rank layers.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rllib_seqmarl.mixers.base import MixerOptions, MixerShape
from rllib_seqmarl.mixers.rwkv_common import MatrixTimeMix, RWKVInit, log_decay
from rllib_seqmarl.ops.token_shift import token_shift


@dataclass(frozen=True)
class RWKV6Options(MixerOptions):
    """Options of RWKV-6.

    Attributes:
        mix_rank: Rank of the layers for token shifts. "auto": embed_dim / 16, within 4 to 32 (32 as published).
        decay_rank: Rank of the layers for decays. "auto": embed_dim / 8, within 8 to 64 (64 as published).

    Raises:
        ValueError: An option has an invalid value.
    """

    mix_rank: int | Literal["auto"] = "auto"
    decay_rank: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        for key in ("mix_rank", "decay_rank"):
            value = getattr(self, key)
            if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{key} must be an integer >= 1 or 'auto', not {value!r}; omit it for 'auto'")

    def ranks(self, embed_dim: int) -> tuple[int, int]:
        """Ranks of shifts and decays for tokens of this width."""
        mix = min(max(embed_dim // 16, 4), 32) if self.mix_rank == "auto" else self.mix_rank
        decay = min(max(embed_dim // 8, 8), 64) if self.decay_rank == "auto" else self.decay_rank
        return mix, decay


class RWKV6TimeMix(MatrixTimeMix):
    """Time mixing whose token shifts and decays depend on the token, after a first shift (section 4.2)."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__(shape)
        d, start = shape.embed_dim, RWKVInit(shape)
        mix_rank, decay_rank = (shape.options or RWKV6Options()).ranks(d)
        self.first_mix = nn.Parameter(start.mix()[None])
        # For the decay, then in the order of the projections.
        mixes = [start.mix(), start.mix(0.5), start.mix(), start.mix(bonus=0.3), start.mix(0.5)]
        self.mix = nn.Parameter(torch.stack(mixes))
        self.mix_down = nn.Parameter(torch.zeros(5 * mix_rank, d))
        self.mix_up = nn.Parameter(torch.empty(5, mix_rank, d).uniform_(-0.01, 0.01))
        self.decay_down = nn.Parameter(torch.zeros(decay_rank, d))
        self.decay_up = nn.Parameter(torch.empty(d, decay_rank).uniform_(-0.01, 0.01))

    def project(self, x: Tensor, previous: Tensor | None, resets: Tensor | None) -> tuple[Tensor, ...]:
        shift = partial(token_shift, initial_state=previous, resets=resets, backend=self.backend)
        (first,) = shift(x, self.first_mix)
        token_mix = self._token_mix(first.flatten(0, 1)).view(5, *x.shape)
        for_decay, *others = shift(x, self.mix, token_mix)
        outputs = (F.linear(y, w) for y, w in zip(others, self.projections.weight.chunk(4), strict=True))  # (B, L, d)
        return *outputs, self._log_decay(for_decay)

    def _token_mix(self, first: Tensor) -> Tensor:
        """The data-dependent part of the token shift (5, tokens, d), computed from the ``first`` shift (tokens, d)."""
        low = torch.tanh(F.linear(first, self.mix_down))  # (tokens, 5 rank)
        return torch.bmm(low.unflatten(-1, (5, -1)).transpose(0, 1), self.mix_up)

    def _log_decay(self, x: Tensor) -> Tensor:
        """Logarithms of the decays, at most 0."""
        change = F.linear(torch.tanh(F.linear(x, self.decay_down)), self.decay_up)
        return log_decay(self.decay + change)
