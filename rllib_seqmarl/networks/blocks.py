"""The blocks that encoder and decoder stack. Which one is used follows from what the mixers declare.

*Crossed* (MAT; Wen et al. 2022, arXiv 2205.14953, figure 2) is post-norm, x = LN(x + sublayer(x)), and its
decoder looks at the encoder's output through a cross mixer. *Added* (RWKV; Peng et al. 2023, arXiv
2305.13048, figure 2) is pre-norm, x = x + sublayer(LN(x)); the encoder's output is added to its tokens
before the first block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from rllib_seqmarl.mixers import Added, CausalMixer, Crossed, Mixer, MixerShape
from rllib_seqmarl.mixers.base import BothWays
from rllib_seqmarl.mixers.layers import ACTIVATED_GAIN, bound, linear
from rllib_seqmarl.ops.decoding import is_compiled

Joined = Callable[[Tensor, Tensor], Tensor]


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
        self.backend = shape.backend
        self.mixer, self.cross, self.mlp = mixers.decoder(shape), mixers.cross(shape), mlp(d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.norm1(x + self.mixer(x))  # (B, n, d)
        x = self.norm2(context + self.cross(x, context))
        return self.norm3(x + self.mlp(x))

    def split_context(self, context: Tensor) -> Sequence[Any]:
        return list(zip(context.unbind(1), self.cross.split_context(context), strict=True))

    def initial_state(self, batch_size: int) -> Any:
        mixers = self.mixer, self.cross
        return mixers, self._between(batch_size), [mixer.initial_state(batch_size) for mixer in mixers]

    def _between(self, batch_size: int) -> tuple[Joined, Joined]:
        """What joins the self mixer's output to its input, and the cross mixer's to rep up to the end of the block."""
        if is_compiled(self.backend, self.norm1.weight):
            from rllib_seqmarl.ops.decoding.blocks import MLPStep, NormStep  # here, because numba need not be installed

            return NormStep(batch_size, self.norm1), MLPStep(batch_size, self.norm2, self.mlp, self.norm3)
        norm1, norm2, mlp, norm3 = (bound(layer) for layer in (self.norm1, self.norm2, self.mlp, self.norm3))

        def finish(rep: Tensor, y: Tensor) -> Tensor:
            x = norm2(rep + y)  # (B, d)
            return norm3(x + mlp(x))

        return lambda x, y: norm1(x + y), finish

    def step(self, x: Tensor, state: Any, context: Any = None) -> tuple[Tensor, Any]:
        (mixer, cross), (join, finish), mixer_states = state
        rep, cross_context = context
        y, mixer_states[0] = mixer.step(x, mixer_states[0])
        x = join(x, y)  # (B, d)
        y, mixer_states[1] = cross.step(x, mixer_states[1], cross_context)
        return finish(rep, y), state


class AddedBlock(CausalMixer):
    """Time mixing, then channel mixing, which may look back in time as well. For encoder and decoder.

    With ``both_ways`` time mixing runs along the team and back; such a block has no steps.
    """

    def __init__(self, mixers: Added, shape: MixerShape, both_ways: bool = False) -> None:
        super().__init__()
        d = shape.embed_dim
        self.backend = shape.backend
        time = mixers.time(shape)
        self.time: Any = BothWays(time) if both_ways else time
        self.channel = mixers.channel(shape)
        self.norm1, self.norm2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = x + self.time(self.norm1(x))  # (B, n, d)
        return x + self.channel(self.norm2(x))

    def initial_state(self, batch_size: int) -> Any:
        mixers = self.time, self.channel
        return mixers, self._between(batch_size), [mixer.initial_state(batch_size) for mixer in mixers]

    def _between(self, batch_size: int) -> tuple[Callable[[Tensor], Tensor], Callable[..., tuple[Tensor, Tensor]]]:
        """The first norm, and what makes of time mixing's input and output their sum and that after the second norm."""
        if is_compiled(self.backend, self.norm1.weight):
            from rllib_seqmarl.ops.decoding.blocks import NormStep  # here, because numba need not be installed

            return NormStep(batch_size, self.norm1), NormStep(batch_size, self.norm2).sum_and_norm
        norm1, norm2 = bound(self.norm1), bound(self.norm2)

        def join(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            x = x + y  # (B, d)
            return x, norm2(x)

        return norm1, join

    def step(self, x: Tensor, state: Any, context: Any = None) -> tuple[Tensor, Any]:
        (time, channel), (norm1, join), mixer_states = state
        y, mixer_states[0] = time.step(norm1(x), mixer_states[0])
        x, normed = join(x, y)  # each (B, d)
        y, mixer_states[1] = channel.step(normed, mixer_states[1])
        return x + y, state
