"""The parts of a block around its mixers: residuals, norms and the position-wise MLP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from rllib_seqmarl.ops.decoding.rows import layer_norm, norm_weights
from rllib_seqmarl.ops.decoding.step import CompiledStep, TorchStep
from rllib_seqmarl.ops.decoding.tiles import affine, packed_layer
from rllib_seqmarl.ops.numba_math import gelu, kernel, scratch


@kernel
def _norm(begin: Any, end: Any, x: Any, norm: Any, y: Any) -> None:
    for b in range(begin, end):
        layer_norm(x, b, norm, y, b)


@kernel
def _add(begin: Any, end: Any, x: Any, y: Any, total: Any) -> None:
    for b in range(begin, end):
        for i in range(x.shape[1]):
            total[b, i] = x[b, i] + y[b, i]


@kernel
def _add_and_norm(begin: Any, end: Any, x: Any, y: Any, norm: Any, total: Any, normed: Any) -> None:
    """total = x + y, normed = its LayerNorm."""
    _add(begin, end, x, y, total)
    _norm(begin, end, total, norm, normed)


@kernel
def apply_gelu(rows: Any, dim: Any, x: Any) -> None:
    """x[:rows, :dim] = GELU(x[:rows, :dim])."""
    for r in range(rows):
        for i in range(dim):
            x[r, i] = gelu(x[r, i])


@kernel
def _mlp(begin: Any, end: Any, x: Any, y: Any, norm: Any, up: Any, down: Any, last_norm: Any, out: Any) -> None:
    """x = LayerNorm(x + y), out = LayerNorm(x + MLP(x))."""
    rows, dim = end - begin, x.shape[1]
    tokens, hidden = scratch(rows, dim, norm), scratch(rows, dim, norm)
    for r in range(rows):
        for i in range(dim):
            tokens[r, i] = x[begin + r, i] + y[begin + r, i]
        layer_norm(tokens, r, norm, tokens, r)
    affine(tokens, 0, rows, up, hidden)
    apply_gelu(rows, dim, hidden)
    mixed = scratch(rows, dim, norm)
    affine(hidden, 0, rows, down, mixed)
    for r in range(rows):
        for i in range(dim):
            mixed[r, i] += tokens[r, i]
        layer_norm(mixed, r, last_norm, out, begin + r)


class NormStep(CompiledStep):
    """A LayerNorm of one token or of the sum of two."""

    def __init__(self, batch_size: int, norm: nn.LayerNorm) -> None:
        self.norm = norm_weights(norm)
        super().__init__(batch_size, self.norm, self.norm.shape[1], self.norm.shape[1])

    def advance(self, x: Any, context: Any = None) -> Any:
        """LayerNorm of x, or of x + context."""
        return self.run(_norm, x, self.norm) if context is None else self.sum_and_norm(x, context)[1]

    def sum_and_norm(self, x: Any, y: Any) -> tuple[Any, Any]:
        """x + y and its LayerNorm; all are arrays (batch, d)."""
        total = np.empty(self.shape, self.like.dtype)
        return total, self.run(_add_and_norm, x, y, self.norm, total)


class MLPStep(CompiledStep):
    """The end of a post-norm block: x = LN(x + context), then LN(x + MLP(x))."""

    def __init__(self, batch_size: int, norm: nn.LayerNorm, mlp: Iterable[Any], last_norm: nn.LayerNorm) -> None:
        up, _, down = mlp
        self.weights = norm_weights(norm), packed_layer(up), packed_layer(down)
        self.last_norm = norm_weights(last_norm)
        super().__init__(batch_size, self.last_norm, self.last_norm.shape[1], 2 * self.weights[1].size)

    def advance(self, x: Any, context: Any = None) -> Any:
        return self.run(_mlp, x, context, *self.weights, self.last_norm)


class BlockStep:
    """A block with two mixers, each with compiled or plain torch steps, and the norm ``between`` them."""

    def __init__(self, batch_size: int, mixers: Iterable[Any], between: NormStep) -> None:
        self.between = between
        self.mixers = [self._build_step(mixer, batch_size) for mixer in mixers]

    def _build_step(self, mixer: Any, batch_size: int) -> CompiledStep:
        state = mixer.initial_state(batch_size)
        if isinstance(state, CompiledStep):
            return state
        return TorchStep(mixer, batch_size, self.between.like, self.between.shape[1], state)


class PostNormStep(BlockStep):
    """x = LN(x + self mixing), then encoder output + cross mixing and the rest of the block; all on arrays."""

    def __init__(self, batch_size: int, mixers: Iterable[Any], norms: tuple[Any, Any, Any], mlp: Iterable[Any]) -> None:
        super().__init__(batch_size, mixers, NormStep(batch_size, norms[0]))
        self.end = MLPStep(batch_size, norms[1], mlp, norms[2])

    def __call__(self, x: Any, context: Any) -> Any:
        """Step the next token x (batch, d); its context: encoder output (batch, d) and the cross mixer's context."""
        (encoder_output, cross_context), (mixer, cross) = context, self.mixers
        x = self.between(x, mixer(x))
        return self.end(encoder_output, cross(x, cross_context))


class PreNormStep(BlockStep):
    """x = x + time mixing(LN(x)), then x + channel mixing(LN(x)); all on arrays."""

    def __init__(self, batch_size: int, mixers: Iterable[Any], norms: tuple[Any, Any]) -> None:
        super().__init__(batch_size, mixers, NormStep(batch_size, norms[1]))
        self.first = NormStep(batch_size, norms[0])

    def __call__(self, x: Any, context: Any = None) -> Any:
        """Step the next token x (batch, d); the context is not used."""
        time, channel = self.mixers
        x, normed = self.between.sum_and_norm(x, time(self.first(x)))
        return x + channel(normed)


class StackStep(CompiledStep):
    """A stack of blocks after a norm; with ``is_pre_norm``, encoder_output is added before and the norm comes last."""

    def __init__(self, batch_size: int, norm: nn.LayerNorm, is_pre_norm: bool, blocks: Iterable[Any]) -> None:
        self.norm, self.is_pre_norm = NormStep(batch_size, norm), is_pre_norm
        self.blocks = [block.initial_state(batch_size) for block in blocks]
        super().__init__(batch_size, self.norm.like, self.norm.shape[1], 0)

    def advance(self, x: Any, context: Any = None) -> Any:
        """Step the next token; ``context``: the encoder's output for it (batch, d), and one entry per block."""
        encoder_output, block_contexts = context
        x = x + encoder_output if self.is_pre_norm else self.norm(x)
        for block, block_context in zip(self.blocks, block_contexts, strict=True):
            x = block(x, block_context)
        return self.norm(x) if self.is_pre_norm else x

    def context(self, context: Any) -> Any:
        return context
