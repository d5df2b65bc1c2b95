"""The decoder: from predecessors' actions and the encoder's output to each agent's features."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from torch import Tensor, nn

from rllib_seqmarl.mixers import MIXERS, CausalMixer, PostNormMixers, PreNormMixers
from rllib_seqmarl.mixers.base import Addition, State
from rllib_seqmarl.mixers.check import check_users_mixer
from rllib_seqmarl.networks.blocks import PostNormDecoderBlock, PreNormBlock
from rllib_seqmarl.networks.config import NetworkConfig


class Decoder(CausalMixer):
    """A stack of causal blocks on action embeddings ``x`` and the encoder's output, the context.

    *PostNormMixers*: LN(x), then blocks that each read the context. *PreNormMixers*: x + context, then blocks, then LN.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        mixers = MIXERS[config.decoder_mixer]
        check_users_mixer(config.decoder_mixer, config.shapes(mixers)[0])
        self.is_pre_norm = isinstance(mixers, PreNormMixers)
        if isinstance(mixers, PostNormMixers) and config.decoder_cross == "addition":
            mixers = replace(mixers, cross=Addition)
        blocks = nn.ModuleList(
            PreNormBlock(mixers, shape) if isinstance(mixers, PreNormMixers) else PostNormDecoderBlock(mixers, shape)
            for shape in config.shapes(mixers)
        )
        self.blocks = cast(Sequence[CausalMixer], blocks)
        self.norm = nn.LayerNorm(config.embed_dim, bias=not self.is_pre_norm)

    def forward(
        self, x: Tensor, context: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        x = self._begin(x, context)  # (B, L, d)
        states = []
        for i, block in enumerate(self.blocks):
            x, block_state = block(x, context, None if state is None else state[i], resets)
            states.append(block_state)
        return self.norm(x) if self.is_pre_norm else x, None if state is None else states

    def initial_state(self, batch_size: int) -> State:
        return [block.initial_state(batch_size) for block in self.blocks]

    def step(self, x: Tensor, state: State, context: Tensor | None = None) -> tuple[Tensor, State]:
        x = self._begin(x, context)  # (B, d)
        states = []
        for block, block_state in zip(self.blocks, state, strict=True):
            x, block_state = block.step(x, block_state, context)
            states.append(block_state)
        return self.norm(x) if self.is_pre_norm else x, states

    def _begin(self, x: Tensor, context: Tensor | None) -> Tensor:
        assert context is not None, "the decoder needs the encoder's output as context"
        return x + context if self.is_pre_norm else self.norm(x)
