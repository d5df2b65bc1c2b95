"""The blocks that encoder and decoder stack. Which one is used follows from what the mixers declare.

*Crossed* (MAT; Wen et al. 2022, arXiv 2205.14953, figure 2) is post-norm, x = LN(x + sublayer(x)), and its
decoder looks at the encoder's output through a cross mixer. *Added* (RWKV; Peng et al. 2023, arXiv
2305.13048, figure 2) is pre-norm, x = x + sublayer(LN(x)); the encoder's output is added to its tokens
before the first block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from rllib_seqmarl.mixers import Added, CausalMixer, Crossed, Mixer, MixerShape
from rllib_seqmarl.mixers.base import BothWays
from rllib_seqmarl.mixers.layers import ACTIVATED_GAIN, bound, linear


def mlp(d: int) -> nn.Sequential:
    """The position-wise part of a crossed block."""
    return nn.Sequential(linear(d, d, gain=ACTIVATED_GAIN), nn.GELU(), linear(d, d))


class CrossedEncoderBlock(Mixer):
    """Self mixing over the whole team, then MLP."""

    def __init__(self, mixers: Crossed, shape: MixerShape) -> None:
        super().__init__()
        d = shape.embed_dim
        self.mixer, self.mlp = mixers.encoder(shape), mlp(d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.norm1(x + self.mixer(x))  # (B, n, d)
        return self.norm2(x + self.mlp(x))


class CrossedDecoderBlock(CausalMixer):
    """Causal self mixing, cross mixing onto the encoder's output, MLP."""

    def __init__(self, mixers: Crossed, shape: MixerShape) -> None:
        super().__init__()
        d = shape.embed_dim
        self.mixer, self.cross, self.mlp = mixers.decoder(shape), mixers.cross(shape), mlp(d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.norm1(x + self.mixer(x))  # (B, n, d)
        x = self.norm2(context + self.cross(x, context))
        return self.norm3(x + self.mlp(x))

    def split_context(self, context: Tensor) -> Sequence[Any]:
        return list(zip(context.unbind(1), self.cross.split_context(context), strict=True))

    def initial_state(self, batch_size: int) -> Any:
        layers = [bound(layer) for layer in (self.norm1, self.norm2, self.mlp, self.norm3)]
        mixers = self.mixer, self.cross
        return mixers, layers, [mixer.initial_state(batch_size) for mixer in mixers]

    def step(self, x: Tensor, state: Any, context: Any = None) -> tuple[Tensor, Any]:
        (mixer, cross), (norm1, norm2, mlp, norm3), mixer_states = state
        rep, cross_context = context
        y, mixer_states[0] = mixer.step(x, mixer_states[0])
        x = norm1(x + y)  # (B, d)
        y, mixer_states[1] = cross.step(x, mixer_states[1], cross_context)
        x = norm2(rep + y)
        return norm3(x + mlp(x)), state


class AddedBlock(CausalMixer):
    """Time mixing, then channel mixing, which may look back in time as well. For encoder and decoder.

    With ``both_ways`` time mixing runs along the team and back; such a block has no steps.
    """

    def __init__(self, mixers: Added, shape: MixerShape, both_ways: bool = False) -> None:
        super().__init__()
        d = shape.embed_dim
        time = mixers.time(shape)
        self.time: Any = BothWays(time) if both_ways else time
        self.channel = mixers.channel(shape)
        self.norm1, self.norm2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = x + self.time(self.norm1(x))  # (B, n, d)
        return x + self.channel(self.norm2(x))

    def initial_state(self, batch_size: int) -> Any:
        mixers = self.time, self.channel
        norms = bound(self.norm1), bound(self.norm2)
        return mixers, norms, [mixer.initial_state(batch_size) for mixer in mixers]

    def step(self, x: Tensor, state: Any, context: Any = None) -> tuple[Tensor, Any]:
        (time, channel), (norm1, norm2), mixer_states = state
        y, mixer_states[0] = time.step(norm1(x), mixer_states[0])
        x = x + y  # (B, d)
        y, mixer_states[1] = channel.step(norm2(x), mixer_states[1])
        return x + y, state
