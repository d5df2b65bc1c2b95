"""What stands between the mixers of a block: residuals, norms and the position-wise MLP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rllib_seqmarl.ops.decoding.rows import layer_norm, norm_weights
from rllib_seqmarl.ops.decoding.step import CompiledStep
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
def activated(rows: Any, dim: Any, x: Any) -> None:
    """x[:rows, :dim] = its GELU."""
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
    activated(rows, dim, hidden)
    mixed = scratch(rows, dim, norm)
    affine(hidden, 0, rows, down, mixed)
    for r in range(rows):
        for i in range(dim):
            mixed[r, i] += tokens[r, i]
        layer_norm(mixed, r, last_norm, out, begin + r)


class NormStep(CompiledStep):
    """A LayerNorm, of one tensor or of the sum of two."""

    def __init__(self, batch_size: int, norm: nn.LayerNorm) -> None:
        self.norm = norm_weights(norm)
        super().__init__(batch_size, self.norm, self.norm.shape[1], self.norm.shape[1])

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """LayerNorm of x, or of x + y; all (batch, d)."""
        if y is None:
            return self.run(_norm, self.tokens(x), self.norm)
        return self.sum_and_norm(x, y)[1]

    def sum_and_norm(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x + y and its LayerNorm."""
        total = np.empty(self.shape, self.like.dtype)
        normed = self.run(_add_and_norm, self.tokens(x), self.tokens(y), self.norm, total)
        return torch.from_numpy(total), normed


class MLPStep(CompiledStep):
    """The end of a crossed block: x = LN(x + y), then LN(x + MLP(x))."""

    def __init__(self, batch_size: int, norm: nn.LayerNorm, mlp: Iterable[Any], last_norm: nn.LayerNorm) -> None:
        up, _, down = mlp
        self.weights = norm_weights(norm), packed_layer(up), packed_layer(down)
        self.last_norm = norm_weights(last_norm)
        super().__init__(batch_size, self.last_norm, self.last_norm.shape[1], 2 * self.weights[1].size)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """From x and y, each (batch, d), to (batch, d)."""
        return self.run(_mlp, self.tokens(x), self.tokens(y), *self.weights, self.last_norm)
