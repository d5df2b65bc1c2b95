"""The blocks of encoder and decoder. The type of the mixers' registry entry selects the block.

*PostNormMixers* (MAT; Wen et al. 2022, arXiv 2205.14953, figure 2) is post-norm, x = LN(x + sublayer(x)), and its
decoder reads the encoder's output through a cross mixer. *PreNormMixers* (RWKV; Peng et al. 2023, arXiv
2305.13048, figure 2) is pre-norm, x = x + sublayer(LN(x)); the encoder's output is added to its tokens
before the first block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from rllib_seqmarl.mixers import CausalMixer, Mixer, MixerShape, PostNormMixers, PreNormMixers
from rllib_seqmarl.mixers.base import Bidirectional
from rllib_seqmarl.mixers.layers import ACTIVATED_GAIN, bound, linear
from rllib_seqmarl.ops.decoding import is_compiled, per_agent


def mlp(d: int) -> nn.Sequential:
    """The position-wise part of a post-norm block."""
    return nn.Sequential(linear(d, d, gain=ACTIVATED_GAIN), nn.GELU(), linear(d, d))


class PostNormEncoderBlock(Mixer):
    """Self mixing over the whole team, then MLP."""

    def __init__(self, mixers: PostNormMixers, shape: MixerShape) -> None:
        super().__init__()
        d = shape.embed_dim
        self.mixer, self.mlp = mixers.encoder(shape), mlp(d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.norm1(x + self.mixer(x))  # (B, n, d)
        return self.norm2(x + self.mlp(x))


class PostNormDecoderBlock(CausalMixer):
    """Causal self mixing, cross mixing onto the encoder's output, MLP."""

    def __init__(self, mixers: PostNormMixers, shape: MixerShape) -> None:
        super().__init__()
        d = shape.embed_dim
        self.backend = shape.backend
        self.mixer, self.cross, self.mlp = mixers.decoder(shape), mixers.cross(shape), mlp(d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.norm1(x + self.mixer(x))  # (B, n, d)
        x = self.norm2(context + self.cross(x, context))
        return self.norm3(x + self.mlp(x))

    def split_context(self, context: Tensor) -> Sequence[Any]:
        return list(zip(per_agent(context, self.backend), self.cross.split_context(context), strict=True))

    def initial_state(self, batch_size: int) -> Any:
        mixers, norms = (self.mixer, self.cross), (self.norm1, self.norm2, self.norm3)
        if is_compiled(self.backend, self.norm1.weight):
            from rllib_seqmarl.ops.decoding.blocks import PostNormStep  # deferred: numba is optional

            return PostNormStep(batch_size, mixers, norms, self.mlp)
        layers = [bound(layer) for layer in (*norms, self.mlp)]
        return mixers, [mixer.initial_state(batch_size) for mixer in mixers], layers

    def step(self, x: Any, state: Any, context: Any = None) -> tuple[Any, Any]:
        if not isinstance(state, tuple):  # compiled
            return state(x, context), state
        (mixer, cross), mixer_states, (norm1, norm2, norm3, mlp) = state
        encoder_output, cross_context = context
        y, mixer_states[0] = mixer.step(x, mixer_states[0])
        x = norm1(x + y)  # (B, d)
        y, mixer_states[1] = cross.step(x, mixer_states[1], cross_context)
        x = norm2(encoder_output + y)
        return norm3(x + mlp(x)), state


class PreNormBlock(CausalMixer):
    """Time mixing, then channel mixing, which may also read predecessors. For encoder and decoder.

    With ``bidirectional``, time mixing runs in both directions; such a block has no steps.
    """

    def __init__(self, mixers: PreNormMixers, shape: MixerShape, bidirectional: bool = False) -> None:
        super().__init__()
        d = shape.embed_dim
        self.backend = shape.backend
        time = mixers.time(shape)
        self.time: Any = Bidirectional(time) if bidirectional else time
        self.channel = mixers.channel(shape)
        self.norm1, self.norm2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = x + self.time(self.norm1(x))  # (B, n, d)
        return x + self.channel(self.norm2(x))

    def initial_state(self, batch_size: int) -> Any:
        mixers, norms = (self.time, self.channel), (self.norm1, self.norm2)
        if is_compiled(self.backend, self.norm1.weight):
            from rllib_seqmarl.ops.decoding.blocks import PreNormStep  # deferred: numba is optional

            return PreNormStep(batch_size, mixers, norms)
        return mixers, [mixer.initial_state(batch_size) for mixer in mixers], [bound(norm) for norm in norms]

    def step(self, x: Any, state: Any, context: Any = None) -> tuple[Any, Any]:
        if not isinstance(state, tuple):  # compiled
            return state(x), state
        (time, channel), mixer_states, (norm1, norm2) = state
        y, mixer_states[0] = time.step(norm1(x), mixer_states[0])
        x = x + y  # (B, d)
        y, mixer_states[1] = channel.step(norm2(x), mixer_states[1])
        return x + y, state
