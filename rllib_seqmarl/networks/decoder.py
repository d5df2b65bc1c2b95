"""The decoder: from predecessors' actions and the encoder's output to every agent's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from rllib_seqmarl.mixers import Added, CausalMixer, Crossed
from rllib_seqmarl.mixers.base import Addition
from rllib_seqmarl.mixers.layers import bound
from rllib_seqmarl.networks.blocks import AddedBlock, CrossedDecoderBlock
from rllib_seqmarl.networks.config import NetworkConfig
from rllib_seqmarl.ops.decoding import is_compiled, per_agent


class Decoder(nn.Module):
    """A stack of causal blocks: ``x`` are action embeddings, ``rep`` is the encoder's output.

    *Crossed*: LN(x), then blocks that each look at rep. *Added*: x + rep, then blocks, then LN.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.backend = config.backend
        mixers = config.decoder_mixers
        self.is_added = isinstance(mixers, Added)
        if isinstance(mixers, Crossed) and config.decoder_cross == "addition":
            mixers = replace(mixers, cross=Addition)
        blocks = nn.ModuleList(
            AddedBlock(mixers, shape) if isinstance(mixers, Added) else CrossedDecoderBlock(mixers, shape)
            for shape in config.shapes(mixers)
        )
        self.blocks = cast(Sequence[CausalMixer], blocks)
        self.norm = nn.LayerNorm(config.embed_dim, bias=not self.is_added)

    def forward(self, x: Tensor, rep: Tensor) -> Tensor:
        """Features (B, n, d) of all agents from ``x`` (B, n, d) and ``rep`` (B, n, d)."""
        x = x + rep if self.is_added else self.norm(x)
        for block in self.blocks:
            x = block(x, rep)
        return self.norm(x) if self.is_added else x

    def split_context(self, rep: Tensor) -> Sequence[Any]:
        """One entry per agent for :meth:`step`: its rep (B, d) and what every block made of it."""
        rep = rep.transpose(0, 1).contiguous().transpose(0, 1)  # (B, n, d), an agent's tokens side by side in memory
        per_block = (block.split_context(rep) for block in self.blocks)
        return list(zip(per_agent(rep, self.backend), zip(*per_block, strict=True), strict=True))

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first agent: the decoder's own layers, and every block with its state."""
        if is_compiled(self.backend, self.norm.weight):
            from rllib_seqmarl.ops.decoding.blocks import StackStep  # here, because numba need not be installed

            return StackStep(batch_size, self.norm, self.is_added, self.blocks)
        return bound(self.norm), list(self.blocks), [block.initial_state(batch_size) for block in self.blocks]

    def step(self, x: Any, state: Any, context: Any) -> tuple[Any, Any]:
        """Features (B, d) of the next agent, from its ``x`` (B, d) and its entry of :meth:`split_context`.

        Both are tensors, or both arrays where steps are compiled.
        """
        if not isinstance(state, tuple):  # compiled
            return state(x, context), state
        norm, blocks, block_states = state
        rep, block_contexts = context
        x = x + rep if self.is_added else norm(x)
        for i, block in enumerate(blocks):
            x, block_states[i] = block.step(x, block_states[i], block_contexts[i])
        return (norm(x) if self.is_added else x), state
