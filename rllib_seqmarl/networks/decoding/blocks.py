"""The decoder and its blocks: residuals, norms and the position-wise MLP around the mixers."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import nn

from rllib_seqmarl.mixers.base import State
from rllib_seqmarl.networks.blocks import PostNormDecoderBlock, PreNormBlock
from rllib_seqmarl.networks.decoder import Decoder
from rllib_seqmarl.networks.decoding.rows import layer_norm, norm_weights, normalise
from rllib_seqmarl.networks.decoding.step import CompiledStep, Step, step_of
from rllib_seqmarl.networks.decoding.tiles import affine, packed_layer
from rllib_seqmarl.ops.numba_math import gelu, kernel, scratch, tanh_gelu


@kernel
def _norm(begin: Any, end: Any, x: Any, norm: Any, y: Any) -> None:
    for b in range(begin, end):
        normalise(x, b, norm, y, b)


@kernel
def _add_and_norm(begin: Any, end: Any, x: Any, y: Any, norm: Any, total: Any, normed: Any) -> None:
    """total = x + y, normed = its norm."""
    for b in range(begin, end):
        for i in range(x.shape[1]):
            total[b, i] = x[b, i] + y[b, i]
        normalise(total, b, norm, normed, b)


@kernel
def apply_gelu(rows: Any, dim: Any, x: Any, is_tanh: Any) -> None:
    """x[:rows, :dim] = GELU(x[:rows, :dim]), or its approximation by tanh."""
    for r in range(rows):
        if is_tanh:
            for i in range(dim):
                x[r, i] = tanh_gelu(x[r, i])
        else:
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
    apply_gelu(rows, dim, hidden, False)
    mixed = scratch(rows, dim, norm)
    affine(hidden, 0, rows, down, mixed)
    for r in range(rows):
        for i in range(dim):
            mixed[r, i] += tokens[r, i]
        layer_norm(mixed, r, last_norm, out, begin + r)


class NormStep(CompiledStep):
    """A norm of one token or of the sum of two."""

    def __init__(self, norm: nn.LayerNorm | nn.RMSNorm) -> None:
        self.norm = norm_weights(norm)
        super().__init__(self.norm, self.norm.shape[1], self.norm.shape[1])

    def __call__(self, x: Any) -> Any:
        return self.run(_norm, x, self.norm)

    def sum_and_norm(self, x: Any, y: Any) -> tuple[Any, Any]:
        """x + y and its norm."""
        total = np.empty_like(x)
        return total, self.run(_add_and_norm, x, y, self.norm, total)


class MLPStep(CompiledStep):
    """The end of a post-norm block: x = LN(x + y), then LN(x + MLP(x))."""

    def __init__(self, norm: nn.LayerNorm, mlp: Iterable[Any], last_norm: nn.LayerNorm) -> None:
        up, _, down = mlp
        self.weights = norm_weights(norm), packed_layer(up), packed_layer(down), norm_weights(last_norm)
        super().__init__(self.weights[0], self.weights[0].shape[1], 2 * self.weights[1].size)

    def __call__(self, x: Any, y: Any) -> Any:
        return self.run(_mlp, x, y, *self.weights)


class CompositeStep:
    """A step that consists of other steps, of which the ``mixers`` have states."""

    mixers: Sequence[Step]

    def start(self, batch_size: int, length: int) -> None:
        for mixer in self.mixers:
            mixer.start(batch_size, length)

    def load(self, state: State) -> None:
        self.collection = type(state)
        for mixer, own in zip(self.mixers, state, strict=True):
            mixer.load(own)

    @property
    def state(self) -> State:
        return self.collection(mixer.state for mixer in self.mixers)


class PostNormStep(CompositeStep):
    """x = LN(x + self mixing), then context + cross mixing and the rest of the block."""

    def __init__(self, block: PostNormDecoderBlock) -> None:
        self.mixer, self.cross = step_of(block.mixer), step_of(block.cross)
        self.between, self.end = NormStep(block.norm1), MLPStep(block.norm2, block.mlp, block.norm3)
        self.mixers = self.mixer, self.cross

    def __call__(self, x: Any, context: Any) -> Any:
        _, x = self.between.sum_and_norm(x, self.mixer(x))
        return self.end(context, self.cross(x, context))


class PreNormStep(CompositeStep):
    """x = x + time mixing(LN(x)), then x + channel mixing(LN(x))."""

    def __init__(self, block: PreNormBlock) -> None:
        self.time, self.channel = step_of(block.time), step_of(block.channel)
        self.first, self.between = NormStep(block.norm1), NormStep(block.norm2)
        self.mixers = self.time, self.channel

    def __call__(self, x: Any, context: Any = None) -> Any:
        x, normed = self.between.sum_and_norm(x, self.time(self.first(x)))
        return x + self.channel(normed)


class DecoderStep(CompositeStep):
    """The blocks after a norm; with pre-norm blocks, the context is added before and the norm comes last."""

    def __init__(self, decoder: Decoder) -> None:
        self.norm, self.is_pre_norm = NormStep(decoder.norm), decoder.is_pre_norm
        self.mixers = [step_of(block) for block in decoder.blocks]

    def __call__(self, x: Any, context: Any) -> Any:
        x = x + context if self.is_pre_norm else self.norm(x)
        for block in self.mixers:
            x = block(x, context)
        return self.norm(x) if self.is_pre_norm else x
