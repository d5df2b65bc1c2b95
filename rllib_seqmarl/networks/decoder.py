"""The decoder: from predecessors' actions and the encoder's output to each agent's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from rllib_seqmarl.mixers import CausalMixer, PostNormMixers, PreNormMixers
from rllib_seqmarl.mixers.base import Addition
from rllib_seqmarl.mixers.layers import bound
from rllib_seqmarl.networks.blocks import PostNormDecoderBlock, PreNormBlock
from rllib_seqmarl.networks.config import NetworkConfig
from rllib_seqmarl.ops.decoding import is_compiled, per_agent


class Decoder(nn.Module):
    """A stack of causal blocks on action embeddings ``x`` and ``encoder_output``.

    *PostNormMixers*: LN(x), then blocks that each read encoder_output. *PreNormMixers*: x + encoder_output, then
    blocks, then LN.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.backend = config.backend
        mixers = config.decoder_mixers
        self.is_pre_norm = isinstance(mixers, PreNormMixers)
        if isinstance(mixers, PostNormMixers) and config.decoder_cross == "addition":
            mixers = replace(mixers, cross=Addition)
        blocks = nn.ModuleList(
            PreNormBlock(mixers, shape) if isinstance(mixers, PreNormMixers) else PostNormDecoderBlock(mixers, shape)
            for shape in config.shapes(mixers)
        )
        self.blocks = cast(Sequence[CausalMixer], blocks)
        self.norm = nn.LayerNorm(config.embed_dim, bias=not self.is_pre_norm)

    def forward(self, x: Tensor, encoder_output: Tensor) -> Tensor:
        """Features (B, n, d) of all agents from ``x`` (B, n, d) and ``encoder_output`` (B, n, d)."""
        x = x + encoder_output if self.is_pre_norm else self.norm(x)
        for block in self.blocks:
            x = block(x, encoder_output)
        return self.norm(x) if self.is_pre_norm else x

    def split_context(self, encoder_output: Tensor) -> Sequence[Any]:
        """One entry per agent for :meth:`step`: its encoder_output (B, d) and every block's entry."""
        encoder_output = encoder_output.transpose(0, 1).contiguous().transpose(0, 1)  # (B, n, d), contiguous by agent
        per_block = (block.split_context(encoder_output) for block in self.blocks)
        return list(zip(per_agent(encoder_output, self.backend), zip(*per_block, strict=True), strict=True))

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first agent: the decoder's norm, the blocks and their states."""
        if is_compiled(self.backend, self.norm.weight):
            from rllib_seqmarl.ops.decoding.blocks import StackStep  # deferred: numba is optional

            return StackStep(batch_size, self.norm, self.is_pre_norm, self.blocks)
        return bound(self.norm), list(self.blocks), [block.initial_state(batch_size) for block in self.blocks]

    def step(self, x: Any, state: Any, context: Any) -> tuple[Any, Any]:
        """Features (B, d) of the next agent, from its ``x`` (B, d) and its entry of :meth:`split_context`.

        Both are tensors, or both are arrays if steps are compiled.
        """
        if not isinstance(state, tuple):  # compiled
            return state(x, context), state
        norm, blocks, block_states = state
        encoder_output, block_contexts = context
        x = x + encoder_output if self.is_pre_norm else norm(x)
        for i, block in enumerate(blocks):
            x, block_states[i] = block.step(x, block_states[i], block_contexts[i])
        return (norm(x) if self.is_pre_norm else x), state
