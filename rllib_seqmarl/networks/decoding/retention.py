"""Retention, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from rllib_seqmarl.mixers.retention import NORM_EPSILON, CausalRetention, MultiScaleRetention
from rllib_seqmarl.networks.decoding.rows import layer_norm
from rllib_seqmarl.networks.decoding.step import CompiledStep
from rllib_seqmarl.networks.decoding.tiles import affine, array, packed_layer
from rllib_seqmarl.ops.numba_math import exp, kernel, scratch


@kernel
def _write_and_read(b: Any, h: Any, q: Any, k: Any, v: Any, decay: Any, states: Any, y: Any) -> None:
    """states[b, h] decays, the token is added to it, and y[h] is what the query reads. All others are (heads, size)."""
    size = q.shape[1]
    zero = q.dtype.type(0)
    for j in range(size):
        y[h, j] = zero
    for i in range(size):
        q_i, k_i = q[h, i], k[h, i]
        for j in range(size):
            states[b, h, i, j] = decay[h] * states[b, h, i, j] + k_i * v[h, j]
            y[h, j] += q_i * states[b, h, i, j]


@kernel
def _step(
    begin: Any, end: Any, x: Any, source: Any, query: Any, key: Any, value: Any, gate: Any, decay: Any, norms: Any,
    output: Any, states: Any, y: Any,
) -> None:  # fmt: skip
    """x, y and the queries' source (batch, d); projections as `packed`; norms (groups, 3, channels), `norm_weights`."""
    rows, heads, size = end - begin, states.shape[1], states.shape[2]
    groups, channels = norms.shape[0], norms.shape[2]
    d = heads * size
    one = decay.dtype.type(1)
    q, k, v = scratch(rows, d, decay), scratch(rows, d, decay), scratch(rows, d, decay)
    gates, read = scratch(rows, d, decay), scratch(rows, d, decay)
    affine(source, begin, rows, query, q)
    affine(x, begin, rows, key, k)
    affine(x, begin, rows, value, v)
    affine(x, begin, rows, gate, gates)
    # One token by head: LLVM does not vectorise loops whose index starts in the middle of a row.
    token = np.empty((4, heads, size), decay.dtype)
    flat, grouped = token.reshape(4, d), token.reshape(4, heads * groups, channels)
    for r in range(rows):
        for i in range(d):
            flat[0, i], flat[1, i], flat[2, i] = q[r, i], k[r, i], v[r, i]
        for h in range(heads):
            _write_and_read(begin + r, h, token[0], token[1], token[2], decay, states, token[3])
            for g in range(groups):
                layer_norm(grouped[3], h * groups + g, norms[g], grouped[3], h * groups + g)
        for i in range(d):
            read[r, i] = flat[3, i] * gates[r, i] / (one + exp(-gates[r, i]))
    affine(read, 0, rows, output, q)
    y[begin:end] = q[:, :d]


class RetentionStep(CompiledStep):
    """Self and cross retention: packed projections, and a state per head, which decays with every token."""

    def __init__(self, layer: MultiScaleRetention, decay: Tensor) -> None:
        weight, heads = array(layer.norm.weight), layer.n_head
        size = len(weight)
        norms = np.empty((heads, 3, size // heads), weight.dtype)  # each head has as many groups as there are heads
        norms[:, 0], norms[:, 2] = weight.reshape(heads, -1), array(layer.norm.bias).reshape(heads, -1)
        norms[:, 1] = NORM_EPSILON
        inputs = [packed_layer(part) for part in (layer.query, layer.key, layer.value, layer.gate)]
        self.weights = *inputs, array(decay).astype(weight.dtype), norms, packed_layer(layer.output)
        d = heads * size
        # Five projections, and the state, which is bound by memory bandwidth.
        super().__init__(weight, d, 5 * d * d + 4 * d * size, (heads, size, size))

    def __call__(self, x: Any, context: Any = None) -> Any:
        """The output for the next token ``x``; queries come from the context or, without one, from x."""
        return self.run(_step, x, x if context is None else context, *self.weights, *self.states)

    @classmethod
    def of(cls, mixer: CausalRetention) -> RetentionStep:
        """The step of a mixer along agents."""
        return cls(mixer.layer, mixer.layer.decay)
