"""The blocks of encoder and decoder. The type of the mixers' registry entry selects the block.

*PostNormMixers* (MAT; Wen et al. 2022, arXiv 2205.14953, figure 2) is post-norm, x = LN(x + sublayer(x)), and its
decoder reads the encoder's output through a cross mixer. *PreNormMixers* (RWKV; Peng et al. 2023, arXiv
2305.13048, figure 2) is pre-norm, x = x + sublayer(LN(x)); the encoder's output is added to its tokens
before the first block.

Blocks are mixers, too: they take and return states in the same way.
"""

from typing import Any

from torch import Tensor, nn

from rllib_seqmarl.mixers import CausalMixer, Mixer, MixerShape, PostNormMixers, PreNormMixers
from rllib_seqmarl.mixers.base import Bidirectional, State
from rllib_seqmarl.mixers.layers import ACTIVATED_GAIN, linear


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

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, State]:
        x = self.norm1(x + self.mixer(x)[0])  # (B, n, d)
        return self.norm2(x + self.mlp(x)), None


class PostNormDecoderBlock(CausalMixer):
    """Causal self mixing, cross mixing onto the encoder's output, MLP."""

    def __init__(self, mixers: PostNormMixers, shape: MixerShape) -> None:
        super().__init__()
        d = shape.embed_dim
        self.mixer, self.cross, self.mlp = mixers.decoder(shape), mixers.cross(shape), mlp(d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(
        self, x: Tensor, context: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        mixed, crossed = (None, None) if state is None else state
        y, mixed = self.mixer(x, None, mixed, resets)
        x = self.norm1(x + y)  # (B, L, d)
        y, crossed = self.cross(x, context, crossed, resets)
        return self._end(context, y), None if state is None else (mixed, crossed)

    def initial_state(self, batch_size: int) -> State:
        return self.mixer.initial_state(batch_size), self.cross.initial_state(batch_size)

    def step(self, x: Tensor, state: State, context: Tensor | None = None) -> tuple[Tensor, State]:
        y, mixed = self.mixer.step(x, state[0])
        x = self.norm1(x + y)  # (B, d)
        y, crossed = self.cross.step(x, state[1], context)
        return self._end(context, y), (mixed, crossed)

    def _end(self, context: Tensor | None, y: Tensor) -> Tensor:
        assert context is not None, "these blocks need the encoder's output as context"
        x = self.norm2(context + y)
        return self.norm3(x + self.mlp(x))


class PreNormBlock(CausalMixer):
    """Time mixing, then channel mixing, which may also read predecessors. For encoder and decoder.

    With ``bidirectional``, time mixing runs in both directions; such a block has no steps.
    """

    def __init__(self, mixers: PreNormMixers, shape: MixerShape, bidirectional: bool = False) -> None:
        super().__init__()
        d = shape.embed_dim
        time = mixers.time(shape)
        self.time: Any = Bidirectional(time) if bidirectional else time
        self.channel = mixers.channel(shape)
        self.norm1, self.norm2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)

    def forward(
        self, x: Tensor, context: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        timed, channelled = (None, None) if state is None else state
        y, timed = self.time(self.norm1(x), None, timed, resets)
        x = x + y  # (B, L, d)
        y, channelled = self.channel(self.norm2(x), None, channelled, resets)
        return x + y, None if state is None else (timed, channelled)

    def initial_state(self, batch_size: int) -> State:
        return self.time.initial_state(batch_size), self.channel.initial_state(batch_size)

    def step(self, x: Tensor, state: State, context: Tensor | None = None) -> tuple[Tensor, State]:
        y, timed = self.time.step(self.norm1(x), state[0])
        x = x + y  # (B, d)
        y, channelled = self.channel.step(self.norm2(x), state[1])
        return x + y, (timed, channelled)


class Residual(CausalMixer):
    """LN(x + mixer(x)), the arrangement of post-norm blocks."""

    def __init__(self, mixer: CausalMixer, width: int) -> None:
        super().__init__()
        self.mixer, self.norm = mixer, nn.LayerNorm(width)

    def forward(
        self, x: Tensor, context: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        y, state = self.mixer(x, None, state, resets)
        return self.norm(x + y), state

    def initial_state(self, batch_size: int) -> State:
        return self.mixer.initial_state(batch_size)


class JointEncoderBlock(nn.Module):
    """A causal mixer over the agents of all steps, then an encoder block among the agents of each step."""

    def __init__(self, mixers: PostNormMixers, shape: MixerShape) -> None:
        super().__init__()
        self.causal = Residual(mixers.decoder(shape), shape.embed_dim)
        self.team = PostNormEncoderBlock(mixers, shape)

    def forward(self, x: Tensor, state: State, resets: Tensor | None, n_agents: int) -> tuple[Tensor, State]:
        """Mix ``x`` (B, T * n, d), step after step; ``resets`` (B, T * n)."""
        x, state = self.causal(x, None, state, resets)
        return self.team(x.reshape(-1, n_agents, x.shape[-1]))[0].view_as(x), state
