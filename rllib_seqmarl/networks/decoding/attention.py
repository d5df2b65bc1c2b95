"""Token-by-token causal attention: projections, cached keys and values, softmax."""

import math
from typing import Any

import numpy as np

from rllib_seqmarl.mixers.attention import CausalSelfAttention
from rllib_seqmarl.mixers.base import State
from rllib_seqmarl.networks.decoding.step import CompiledStep
from rllib_seqmarl.networks.decoding.tiles import affine, array, composed, packed, packed_layer
from rllib_seqmarl.ops.numba_math import exp, kernel, scratch


@kernel
def _logits(q: Any, h: Any, b: Any, keys: Any, count: Any, logits: Any) -> None:
    """Fill logits[0, :count] with the scaled products of the query q[h] and the keys, minus their maximum.

    Processes four keys at a time, so that the query is loaded once for all four.
    """
    size = keys.shape[3]
    zero = keys.dtype.type(0)
    scale = keys.dtype.type(1 / math.sqrt(size))
    whole = count - count % 4
    for j in range(0, whole, 4):
        s0 = s1 = s2 = s3 = zero
        for i in range(size):
            q_i = q[h, i]
            s0 += q_i * keys[b, h, j, i]
            s1 += q_i * keys[b, h, j + 1, i]
            s2 += q_i * keys[b, h, j + 2, i]
            s3 += q_i * keys[b, h, j + 3, i]
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
def _average(logits: Any, h: Any, b: Any, values: Any, count: Any, out: Any) -> None:
    """out[h] = the average of the values, weighted with the softmax of the logits, whose maximum is 0."""
    size = values.shape[3]
    zero = values.dtype.type(0)
    total = zero
    for j in range(count):
        logits[0, j] = exp(logits[0, j])
    for j in range(count):
        total += logits[0, j]
    for i in range(size):
        out[h, i] = zero
    whole = count - count % 4
    for j in range(0, whole, 4):
        w0, w1, w2, w3 = logits[0, j], logits[0, j + 1], logits[0, j + 2], logits[0, j + 3]
        for i in range(size):
            out[h, i] += (
                w0 * values[b, h, j, i]
                + w1 * values[b, h, j + 1, i]
                + w2 * values[b, h, j + 2, i]
                + w3 * values[b, h, j + 3, i]
            )
    for j in range(whole, count):
        w0 = logits[0, j]
        for i in range(size):
            out[h, i] += w0 * values[b, h, j, i]
    share = values.dtype.type(1) / total
    for i in range(size):
        out[h, i] *= share


@kernel
def _step(
    begin: Any, end: Any, x: Any, source: Any, query: Any, key_value: Any, keys: Any, values: Any, count: Any,
    output: Any, y: Any,
) -> None:  # fmt: skip
    """Sequences ``begin`` to ``end``. x, source (of queries), y (batch, d); keys, values (batch, heads, capacity,
    size), which hold ``count`` tokens and get x as the next one; projections as returned by `packed`.

    If ``key_value`` is empty, x itself serves as key and value.
    """
    heads, size = keys.shape[1], keys.shape[3]
    d, rows = heads * size, end - begin
    q, out = scratch(rows, d, output), scratch(rows, d, output)
    logits = scratch(1, count + 1, output)
    # One token by head: LLVM does not vectorise loops whose index starts in the middle of a row.
    head_q, head_out = np.empty((heads, size), output.dtype), np.empty((heads, size), output.dtype)
    affine(source, begin, rows, query, q)
    if len(key_value) > 0:
        projected = scratch(rows, 2 * d, output)
        affine(x, begin, rows, key_value, projected)
        for r in range(rows):
            for h in range(heads):
                for i in range(size):
                    keys[begin + r, h, count, i] = projected[r, h * size + i]
                for i in range(size):
                    values[begin + r, h, count, i] = projected[r, d + h * size + i]
    else:
        for r in range(rows):
            for i in range(d):
                keys[begin + r, 0, count, i] = x[begin + r, i]
    for r in range(rows):
        for h in range(heads):
            for i in range(size):
                head_q[h, i] = q[r, h * size + i]
            _logits(head_q, h, begin + r, keys, count + 1, logits)
            _average(logits, h, begin + r, values, count + 1, head_out)
            for i in range(size):
                out[r, h * size + i] = head_out[h, i]
    affine(out, 0, rows, output, q)
    y[begin:end] = q[:, :d]


class AttentionStep(CompiledStep):
    """Self and cross attention: packed projections, and the keys and values of the tokens so far.

    With folding, tokens serve as keys and values, and the second projection is merged into the other two.
    """

    def __init__(self, mixer: CausalSelfAttention) -> None:
        self.query, self.output = packed_layer(mixer.query), packed_layer(mixer.proj)
        self.key_value, d = packed_layer(mixer.key_value), mixer.query.in_features
        if mixer.is_folded:
            weight, bias = array(mixer.key_value.weight), array(mixer.key_value.bias)
            self.query = composed(self.query, packed(weight[:d], is_transposed=True))
            values, proj = packed(weight[d:], bias[d:]), packed(array(mixer.proj.weight))
            self.output = composed(values, proj, array(mixer.proj.bias))
            self.key_value = self.key_value[:0]
        self.entry_shape = 1 if mixer.is_folded else 2, mixer.n_head, mixer.head_dim
        super().__init__(self.output, d, self.output.size + self.query.size + self.key_value.size)

    def start(self, batch_size: int, length: int) -> None:
        super().start(batch_size, length)
        n_entries, heads, size = self.entry_shape
        self.entries = np.empty((n_entries, batch_size, heads, length, size), self.dtype)
        self.count = 0

    def load(self, state: State) -> None:
        raise NotImplementedError("the state of attention grows; it cannot be carried from step to step")

    def __call__(self, x: Any, context: Any = None) -> Any:
        """The output for the next token ``x``; queries come from the context or, without one, from x."""
        source = x if context is None else context
        keys, values = self.entries[0], self.entries[-1]
        y = self.run(_step, x, source, self.query, self.key_value, keys, values, self.count, self.output)
        self.count += 1
        return y
