"""Attention of one token after another to its predecessors: projections, keys and values so far, softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import nn

from rllib_seqmarl.ops.decoding.cached_pack import cached_pack
from rllib_seqmarl.ops.decoding.step import CompiledStep
from rllib_seqmarl.ops.decoding.tiles import affine, array, composed, packed, packed_layer
from rllib_seqmarl.ops.numba_math import exp, kernel, scratch


@kernel
def _logits(q: Any, h: Any, b: Any, keys: Any, count: Any, logits: Any) -> None:
    """Fills logits[0, :count] with what the query q[h] makes of the keys, less the highest.

    It goes through four keys at a time, so that the query is loaded once for all four.
    """
    size = keys.shape[3]
    zero = keys.dtype.type(0)
    scale = keys.dtype.type(1 / math.sqrt(size))
    whole = count - count % 4
    for j in range(0, whole, 4):
        s0 = s1 = s2 = s3 = zero
        for i in range(size):
            asked = q[h, i]
            s0 += asked * keys[b, h, j, i]
            s1 += asked * keys[b, h, j + 1, i]
            s2 += asked * keys[b, h, j + 2, i]
            s3 += asked * keys[b, h, j + 3, i]
        logits[0, j], logits[0, j + 1], logits[0, j + 2], logits[0, j + 3] = s0, s1, s2, s3
    for j in range(whole, count):
        s0 = zero
        for i in range(size):
            s0 += q[h, i] * keys[b, h, j, i]
        logits[0, j] = s0
    highest = logits[0, 0]
    for j in range(count):
        highest = max(highest, logits[0, j])
    for j in range(count):
        logits[0, j] = (logits[0, j] - highest) * scale


@kernel
def _average(logits: Any, h: Any, b: Any, values: Any, count: Any, found: Any) -> None:
    """found[h] = the average of the values with the softmax of the logits, of which the highest is 0."""
    size = values.shape[3]
    zero = values.dtype.type(0)
    total = zero
    for j in range(count):
        logits[0, j] = exp(logits[0, j])
    for j in range(count):
        total += logits[0, j]
    for i in range(size):
        found[h, i] = zero
    whole = count - count % 4
    for j in range(0, whole, 4):
        w0, w1, w2, w3 = logits[0, j], logits[0, j + 1], logits[0, j + 2], logits[0, j + 3]
        for i in range(size):
            found[h, i] += (
                w0 * values[b, h, j, i]
                + w1 * values[b, h, j + 1, i]
                + w2 * values[b, h, j + 2, i]
                + w3 * values[b, h, j + 3, i]
            )
    for j in range(whole, count):
        w0 = logits[0, j]
        for i in range(size):
            found[h, i] += w0 * values[b, h, j, i]
    share = values.dtype.type(1) / total
    for i in range(size):
        found[h, i] *= share


@kernel
def _step(
    begin: Any, end: Any, x: Any, source: Any, query: Any, key_value: Any, keys: Any, values: Any, count: Any,
    output: Any, y: Any,
) -> None:  # fmt: skip
    """Sequences ``begin`` to ``end``. x, source (what asks), y (batch, d); keys, values (batch, heads, capacity, size),
    which hold ``count`` tokens and take x as the next one; projections as `packed` makes them.

    x itself is key and value where ``key_value`` is empty.
    """
    heads, size = keys.shape[1], keys.shape[3]
    d, rows = heads * size, end - begin
    q, found = scratch(rows, d, output), scratch(rows, d, output)
    logits = scratch(1, count + 1, output)
    # One token's, by head: LLVM does not vectorise loops whose index begins in the middle of a row.
    own_q, own_found = np.empty((heads, size), output.dtype), np.empty((heads, size), output.dtype)
    affine(source, begin, rows, query, q)
    if len(key_value) > 0:
        made = scratch(rows, 2 * d, output)
        affine(x, begin, rows, key_value, made)
        for r in range(rows):
            for h in range(heads):
                for i in range(size):
                    keys[begin + r, h, count, i] = made[r, h * size + i]
                for i in range(size):
                    values[begin + r, h, count, i] = made[r, d + h * size + i]
    else:
        for r in range(rows):
            for i in range(d):
                keys[begin + r, 0, count, i] = x[begin + r, i]
    for r in range(rows):
        for h in range(heads):
            for i in range(size):
                own_q[h, i] = q[r, h * size + i]
            _logits(own_q, h, begin + r, keys, count + 1, logits)
            _average(logits, h, begin + r, values, count + 1, own_found)
            for i in range(size):
                found[r, h * size + i] = own_found[h, i]
    affine(found, 0, rows, output, q)
    for r in range(rows):
        for i in range(d):
            y[begin + r, i] = q[r, i]


@cached_pack
def _projections(query: nn.Linear, key_value: nn.Linear, output: nn.Linear, is_folded: bool) -> tuple[Any, Any, Any]:
    """The three of them packed; where they are folded, the second one is empty, and part of the two others."""
    asking, answering = packed_layer(query), packed_layer(output)
    if not is_folded:
        return asking, packed_layer(key_value), answering
    d = query.in_features
    weight, bias = array(key_value.weight), array(key_value.bias)
    asking = composed(asking, packed(weight[:d], is_turned=True))
    answering = composed(packed(weight[d:], bias[d:]), packed(array(output.weight)), array(output.bias))
    return asking, answering[:0], answering


class AttentionStep(CompiledStep):
    """Keys and values of the tokens so far, and packed projections.

    Args:
        batch_size: Sequences that go side by side.
        heads: Number of heads and the width of each.
        query: Makes queries of tokens (d to d).
        key_value: Makes keys and values of them (d to 2 d).
        output: Makes outputs of averaged values (d to d).
        is_folded: Whether tokens serve as keys and values, which takes a single head: projections of both then become
            part of the two others.
    """

    def __init__(
        self, batch_size: int, heads: tuple[int, int], query: nn.Linear, key_value: nn.Linear, output: nn.Linear,
        is_folded: bool,
    ) -> None:  # fmt: skip
        self.query, self.key_value, self.output = _projections(query, key_value, output, is_folded)
        d = heads[0] * heads[1]
        super().__init__(batch_size, self.output, d, self.output.size + self.query.size + self.key_value.size)
        self.length = 0
        n_entries, capacity = 1 if is_folded else 2, 8
        self.entries = np.empty((n_entries, batch_size, heads[0], capacity, heads[1]), self.output.dtype)

    def advance(self, x: Any, context: Any = None) -> Any:
        """The output (batch, d) for the next token ``x`` (batch, d); the context (batch, d), or x itself, asks."""
        if self.length == self.entries.shape[3]:  # capacity doubles when full, so adding costs O(1) on average
            self.entries = np.concatenate([self.entries, np.empty_like(self.entries)], axis=3)
        source = x if context is None else context
        keys, values = self.entries[0], self.entries[-1]
        y = self.run(_step, x, source, self.query, self.key_value, keys, values, self.length, self.output)
        self.length += 1
        return y
