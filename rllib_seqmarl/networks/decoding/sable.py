"""Sable's decoder, token by token within a time step."""

from __future__ import annotations

from typing import Any

from rllib_seqmarl.networks.decoding.blocks import NormStep
from rllib_seqmarl.networks.decoding.retention import RetentionStep
from rllib_seqmarl.networks.decoding.rows import norm_weights, normalise
from rllib_seqmarl.networks.decoding.step import CompiledStep
from rllib_seqmarl.networks.decoding.tiles import affine, array, packed_layer
from rllib_seqmarl.networks.sable import DecoderBlock, DecodingState, SableDecoder, SwiGLU
from rllib_seqmarl.ops.numba_math import exp, kernel, scratch


@kernel
def _feed_forward(
    begin: Any, end: Any, x: Any, y: Any, norm: Any, gate: Any, linear: Any, output: Any, last_norm: Any, out: Any
) -> None:  # fmt: skip
    """x = norm(x + y), out = last norm(x + SwiGLU(x))."""
    rows, dim = end - begin, x.shape[1]
    tokens, gates, hidden = scratch(rows, dim, norm), scratch(rows, dim, norm), scratch(rows, dim, norm)
    one = norm.dtype.type(1)
    for r in range(rows):
        for i in range(dim):
            tokens[r, i] = x[begin + r, i] + y[begin + r, i]
        normalise(tokens, r, norm, tokens, r)
    affine(tokens, 0, rows, gate, gates)
    affine(tokens, 0, rows, linear, hidden)
    for r in range(rows):
        for i in range(dim):
            hidden[r, i] *= gates[r, i] / (one + exp(-gates[r, i]))
    affine(hidden, 0, rows, output, gates)
    for r in range(rows):
        for i in range(dim):
            gates[r, i] += tokens[r, i]
        normalise(gates, r, last_norm, out, begin + r)


class FeedForwardStep(CompiledStep):
    """The end of a block: x = norm(x + y), then norm(x + SwiGLU(x))."""

    def __init__(self, norm: Any, ffn: SwiGLU, last_norm: Any) -> None:
        layers = [packed_layer(layer) for layer in (ffn.gate, ffn.linear, ffn.output)]
        self.weights = norm_weights(norm), *layers, norm_weights(last_norm)
        super().__init__(self.weights[0], self.weights[0].shape[1], 3 * layers[0].size)

    def __call__(self, x: Any, y: Any) -> Any:
        return self.run(_feed_forward, x, y, *self.weights)


class BlockStep:
    """A decoder block: retention among actions, and from the encoder's output to actions."""

    def __init__(self, block: DecoderBlock) -> None:
        self.retention, self.cross = (RetentionStep(layer, layer.no_decay) for layer in (block.retention, block.cross))
        self.between, self.end = NormStep(block.norm1), FeedForwardStep(block.norm2, block.ffn, block.norm3)

    def __call__(self, x: Any, context: Any, encoding: Any) -> Any:
        read = self.retention(x if encoding is None else x + encoding)
        _, x = self.between.sum_and_norm(x, read)
        sources = (x, context) if encoding is None else (x + encoding, context + encoding)
        return self.end(context, self.cross(*sources))


class SableDecoderStep:
    """The blocks after a norm. States have been decayed for the time step by :meth:`SableDecoder.begin_step`."""

    def __init__(self, decoder: SableDecoder) -> None:
        self.norm, self.blocks = NormStep(decoder.norm), [BlockStep(block) for block in decoder.blocks]

    def load(self, state: DecodingState) -> None:
        """As in :class:`rllib_seqmarl.networks.decoding.step.Step`, as are the others."""
        *states, self.encoding = state
        for block, own, crossed in zip(self.blocks, *states, strict=True):
            block.retention.load(own)
            block.cross.load(crossed)

    @property
    def state(self) -> DecodingState:
        own, crossed = ([getattr(block, name).state for block in self.blocks] for name in ("retention", "cross"))
        return DecodingState(own, crossed, self.encoding)

    def __call__(self, x: Any, context: Any) -> Any:
        x, encoding = self.norm(x), None if self.encoding is None else array(self.encoding)
        for block in self.blocks:
            x = block(x, context, encoding)
        return x
