"""Retention for CPUs, compiled with numba.

Per head, tokens are processed in chunks by products of small matrices: scores within a chunk, and a state between
chunks. A window of a single chunk needs no state. A chunk also ends before a reset, which unlinks it from the next one.

Tokens are indexed [sequence, token, head, channel]. The matrices of a chunk are filled up to whole tiles; what is in
further rows and columns has no effect.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rllib_seqmarl.ops.numba_math import aligned, kernel
from rllib_seqmarl.ops.numba_tiles import HEIGHT, VECTOR_BYTES, add_product

CHUNK = 32  # tokens; 16 and 64 take about a tenth longer


@kernel
def _chunk_starts(b: Any, n_agents: Any, length: Any, resets: Any, starts: Any) -> Any:
    """Fill in where chunks begin, and return their number. No time step is cut, unless it is longer than a chunk."""
    chunks, first = 0, 0
    while first < length:
        starts[chunks] = first
        chunks += 1
        step = first // n_agents
        if n_agents > CHUNK:
            first = min(first + CHUNK, (step + 1) * n_agents)
            continue
        last = min(step + CHUNK // n_agents, length // n_agents)
        if len(resets) > 0:
            for t in range(step + 1, last):
                if resets[b, t]:
                    last = t
                    break
        first = last * n_agents
    starts[chunks] = length
    return chunks


@kernel
def _is_linked(b: Any, first: Any, n_agents: Any, length: Any, has_states: Any, resets: Any) -> Any:
    """Whether a state is handed over at the border ``first`` of a chunk."""
    if first == length:
        return has_states
    if len(resets) > 0 and first % n_agents == 0 and resets[b, first // n_agents]:
        return False
    return has_states or first > 0


@kernel
def _matrix(rows: Any, columns: Any, like: Any) -> Any:
    """Zeros of at least this size."""
    lanes = VECTOR_BYTES // like.itemsize
    x = aligned((rows + HEIGHT - 1) // HEIGHT * HEIGHT, (columns + lanes - 1) // lanes * lanes, like)
    x[:] = 0
    return x


@kernel
def _decays(decay: Any, n_agents: Any, causal: Any, weights: Any, powers: Any) -> None:
    """Decays of a head: powers[i] over i time steps, and weights[t, s] from a chunk's token s to its reader t."""
    powers[0] = 1
    for i in range(CHUNK):
        powers[i + 1] = powers[i] * decay
    weights[:] = 0
    for t in range(CHUNK):
        for s in range(t + 1 if causal else min((t // n_agents + 1) * n_agents, CHUNK)):
            weights[t, s] = powers[max(t // n_agents - s // n_agents, 0)]


@kernel
def _ages(first: Any, tokens: Any, n_agents: Any, powers: Any, since: Any, until: Any) -> Any:
    """Decays of a chunk's tokens since the state before it, and until the state after it; returns that of the former.

    A chunk within a time step begins with the state of that time step.
    """
    before = 1 if first % n_agents == 0 else 0
    total = (tokens - 1) // n_agents + before
    for t in range(tokens):
        age = t // n_agents + before
        since[t], until[t] = powers[age], powers[total - age]
    return powers[total]


@kernel
def _load(b: Any, first: Any, tokens: Any, h: Any, x: Any, rows: Any) -> None:
    for t in range(tokens):
        for i in range(x.shape[3]):
            rows[t, i] = x[b, first + t, h, i]


@kernel
def _load_columns(b: Any, first: Any, tokens: Any, h: Any, x: Any, columns: Any) -> None:
    for t in range(tokens):
        for i in range(x.shape[3]):
            columns[i, t] = x[b, first + t, h, i]


@kernel
def _store(b: Any, first: Any, tokens: Any, h: Any, rows: Any, x: Any) -> None:
    for t in range(tokens):
        for i in range(x.shape[3]):
            x[b, first + t, h, i] = rows[t, i]


@kernel
def _scale(rows: Any, factors: Any, tokens: Any) -> None:
    for t in range(tokens):
        for i in range(rows.shape[1]):
            rows[t, i] *= factors[t]


@kernel
def _decay_state(state: Any, decay: Any, is_nonzero: Any) -> None:
    zero = state.dtype.type(0)
    for i in range(state.shape[0]):
        for j in range(state.shape[1]):
            state[i, j] = decay * state[i, j] if is_nonzero else zero


@kernel
def _score(x: Any, columns: Any, depth: Any, weights: Any, tokens: Any, scores: Any) -> None:
    """scores[t, s] = weights[t, s] x[t] . columns[:, s]"""
    scores[:] = 0
    add_product(x, tokens, columns, depth, scores)
    for t in range(tokens):
        for s in range(scores.shape[1]):
            scores[t, s] *= weights[t, s]


@kernel
def forward(
    begin: Any, end: Any, q: Any, k: Any, v: Any, decay: Any, n_agents: Any, causal: Any, resets: Any, states: Any,
    y: Any,
) -> None:  # fmt: skip
    """Fill y, and advance the states in place.

    q, k (batch, length, heads, d_k), v, y (batch, length, heads, d_v), decay (heads,), resets (batch, length /
    n_agents) or empty, states (batch, heads, d_k, d_v), or empty to start from zeros and discard them. Unless
    ``causal``, time steps have at most ``CHUNK`` tokens.
    """
    _, length, heads, d_k = q.shape
    d_v, has_states = v.shape[3], len(states) > 0
    queries, keys, values = _matrix(CHUNK, d_k, q), _matrix(d_k, CHUNK, q), _matrix(CHUNK, d_v, q)
    scores, weights, out = _matrix(CHUNK, CHUNK, q), _matrix(CHUNK, CHUNK, q), _matrix(CHUNK, d_v, q)
    state, powers = _matrix(d_k, d_v, q), np.empty(CHUNK + 1, decay.dtype)
    since, until = np.empty(CHUNK, decay.dtype), np.empty(CHUNK, decay.dtype)
    starts = np.empty(length + 1, np.int64)
    for h in range(heads):
        _decays(decay[h], n_agents, causal, weights, powers)
        for b in range(begin, end):
            if has_states:
                state[:d_k, :d_v] = states[b, h]
            for c in range(_chunk_starts(b, n_agents, length, resets, starts)):
                first, last = starts[c], starts[c + 1]
                tokens = last - first
                total = _ages(first, tokens, n_agents, powers, since, until)
                begins_linked = _is_linked(b, first, n_agents, length, has_states, resets)
                _load(b, first, tokens, h, q, queries)
                _load_columns(b, first, tokens, h, k, keys)
                _load(b, first, tokens, h, v, values)
                out[:] = 0
                if begins_linked:
                    add_product(queries, tokens, state, d_k, out)
                    _scale(out, since, tokens)
                _score(queries, keys, d_k, weights, tokens, scores)
                add_product(scores, tokens, values, tokens, out)
                _store(b, first, tokens, h, out, y)
                if _is_linked(b, last, n_agents, length, has_states, resets):
                    _decay_state(state, total, begins_linked)
                    _scale(values, until, tokens)
                    add_product(keys, d_k, values, tokens, state)
            if has_states:
                states[b, h] = state[:d_k, :d_v]


@kernel
def backward(
    begin: Any, end: Any, q: Any, k: Any, v: Any, decay: Any, n_agents: Any, causal: Any, resets: Any,
    first_states: Any, grad_y: Any, grad_states: Any, grad_q: Any, grad_k: Any, grad_v: Any,
) -> None:  # fmt: skip
    """Fill the gradients of q, k and v.

    ``first_states`` holds the states that `forward` started from. ``grad_states`` holds the gradient of the last
    states, and is overwritten by that of the first.
    """
    _, length, heads, d_k = q.shape
    d_v, has_states = v.shape[3], len(first_states) > 0
    queries, keys, grad_out = _matrix(CHUNK, d_k, q), _matrix(CHUNK, d_k, q), _matrix(CHUNK, d_v, q)
    values, key_columns, value_columns = _matrix(CHUNK, d_v, q), _matrix(d_k, CHUNK, q), _matrix(d_v, CHUNK, q)
    scores, grad_scores, weights = (_matrix(CHUNK, CHUNK, q), _matrix(CHUNK, CHUNK, q), _matrix(CHUNK, CHUNK, q))
    grad_queries, grad_keys, grad_values = _matrix(CHUNK, d_k, q), _matrix(CHUNK, d_k, q), _matrix(CHUNK, d_v, q)
    # The transposed state, then its gradient and the transpose of that.
    state, grad, transposed = _matrix(d_v, d_k, q), _matrix(d_k, d_v, q), _matrix(d_v, d_k, q)
    powers = np.empty(CHUNK + 1, decay.dtype)
    since, until = np.empty(CHUNK, decay.dtype), np.empty(CHUNK, decay.dtype)
    starts = np.empty(length + 1, np.int64)
    for h in range(heads):
        _decays(decay[h], n_agents, causal, weights, powers)
        for b in range(begin, end):
            if has_states:
                state[:d_v, :d_k] = first_states[b, h].T
            chunks = _chunk_starts(b, n_agents, length, resets, starts)
            # From the first chunk to the last: the gradients of the queries that read the state.
            for c in range(chunks):
                first, last = starts[c], starts[c + 1]
                tokens = last - first
                total = _ages(first, tokens, n_agents, powers, since, until)
                begins_linked = _is_linked(b, first, n_agents, length, has_states, resets)
                grad_queries[:] = 0
                if begins_linked:
                    _load(b, first, tokens, h, grad_y, grad_out)
                    add_product(grad_out, tokens, state, d_v, grad_queries)
                    _scale(grad_queries, since, tokens)
                _store(b, first, tokens, h, grad_queries, grad_q)
                if last < length and _is_linked(b, last, n_agents, length, has_states, resets):
                    _load(b, first, tokens, h, k, keys)
                    _load_columns(b, first, tokens, h, v, value_columns)
                    _scale(keys, until, tokens)
                    _decay_state(state, total, begins_linked)
                    add_product(value_columns, d_v, keys, tokens, state)
            # From the last chunk to the first: everything else.
            grad[:] = 0
            if has_states:
                grad[:d_k, :d_v] = grad_states[b, h]
            for c in range(chunks - 1, -1, -1):
                first, last = starts[c], starts[c + 1]
                tokens = last - first
                total = _ages(first, tokens, n_agents, powers, since, until)
                begins_linked = _is_linked(b, first, n_agents, length, has_states, resets)
                _load(b, first, tokens, h, q, queries)
                _load(b, first, tokens, h, k, keys)
                _load(b, first, tokens, h, v, values)
                _load(b, first, tokens, h, grad_y, grad_out)
                _load(b, first, tokens, h, grad_q, grad_queries)
                _load_columns(b, first, tokens, h, k, key_columns)
                _load_columns(b, first, tokens, h, v, value_columns)
                _score(queries, key_columns, d_k, weights, tokens, scores)
                _score(grad_out, value_columns, d_v, weights, tokens, grad_scores)
                grad_keys[:] = 0
                grad_values[:] = 0
                if _is_linked(b, last, n_agents, length, has_states, resets):
                    for i in range(d_k):
                        for j in range(d_v):
                            transposed[j, i] = grad[i, j]
                    add_product(values, tokens, transposed, d_v, grad_keys)
                    _scale(grad_keys, until, tokens)
                    add_product(keys, tokens, grad, d_k, grad_values)
                    _scale(grad_values, until, tokens)
                add_product(grad_scores, tokens, keys, tokens, grad_queries)
                add_product(grad_scores.T, tokens, queries, tokens, grad_keys)
                add_product(scores.T, tokens, grad_out, tokens, grad_values)
                _store(b, first, tokens, h, grad_queries, grad_q)
                _store(b, first, tokens, h, grad_keys, grad_k)
                _store(b, first, tokens, h, grad_values, grad_v)
                _decay_state(grad, total, begins_linked)
                if begins_linked:
                    _scale(grad_out, since, tokens)
                    add_product(queries.T, d_k, grad_out, tokens, grad)
            if has_states:
                grad_states[b, h] = grad[:d_k, :d_v]
