"""Retention for CPUs, compiled with numba.

Within a chunk of a few tokens, each token reads the others' keys directly. Only chunks are linked by the state, so a
window of a single chunk needs none. If all tokens of large time steps see each other, a chunk is a time step, whose
tokens read the state after it. A chunk also ends before a reset, which unlinks it from the next one.

Arrays are indexed [sequence, token, head, channel], with all loops over heads and channels starting from 0: LLVM does
not vectorise a loop in which an index might be negative.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rllib_seqmarl.ops.matrix_state_kernels import dot_state, read, write
from rllib_seqmarl.ops.numba_math import kernel, scratch

CHUNK = 16  # tokens
LARGE = 8  # tokens of a time step that is a chunk of its own if they see each other


@kernel
def _chunk_end(b: Any, first: Any, n_agents: Any, is_whole: Any, length: Any, resets: Any) -> Any:
    """The end of the chunk that begins at ``first``: no time step is cut, unless it is longer than a chunk."""
    step = first // n_agents
    if is_whole:
        return first + n_agents
    if n_agents > CHUNK:
        return min(first + CHUNK, (step + 1) * n_agents)
    last = min(step + CHUNK // n_agents, length // n_agents)
    if len(resets) > 0:
        for t in range(step + 1, last):
            if resets[b, t]:
                return t * n_agents
    return last * n_agents


@kernel
def _is_linked(b: Any, first: Any, n_agents: Any, length: Any, has_states: Any, resets: Any) -> Any:
    """Whether a state is handed over at the border ``first`` of a chunk."""
    if first == length:
        return has_states
    if len(resets) > 0 and first % n_agents == 0 and resets[b, first // n_agents]:
        return False
    return has_states or first > 0


@kernel
def _powers(decay: Any) -> Any:
    """(CHUNK + 1, heads): powers of the decays; a chunk has at most that many time steps, and the step before it."""
    powers = np.empty((CHUNK + 1, len(decay)), decay.dtype)
    powers[0] = 1
    for t in range(CHUNK):
        for h in range(len(decay)):
            powers[t + 1, h] = powers[t, h] * decay[h]
    return powers


@kernel
def _ages(first: Any, last: Any, n_agents: Any, reads: Any, writes: Any) -> Any:
    """Time steps from the state before a chunk to each token, and from each token to the end of the chunk.

    Returns the time steps between the two states. The state before the chunk may be that within a time step.
    """
    before = 1 if first % n_agents == 0 else 0
    total = (last - first - 1) // n_agents + before
    for t in range(last - first):
        reads[t] = t // n_agents + before
        writes[t] = total - reads[t]
    return total


@kernel
def _decay_tokens(b: Any, first: Any, x: Any, ages: Any, tokens: Any, powers: Any, out: Any) -> None:
    """out[t] = x[b, first + t], decayed over ages[t] time steps."""
    for t in range(tokens):
        for h in range(x.shape[2]):
            for i in range(x.shape[3]):
                out[t, h, i] = powers[ages[t], h] * x[b, first + t, h, i]


@kernel
def _decay_state(state: Any, power: Any, is_nonzero: Any) -> None:
    """Multiply a state by ``power`` (heads,); zero unless ``is_nonzero``."""
    zero = state.dtype.type(0)
    for h in range(state.shape[0]):
        for i in range(state.shape[1]):
            for j in range(state.shape[2]):
                state[h, i, j] = power[h] * state[h, i, j] if is_nonzero else zero


@kernel
def forward(
    begin: Any, end: Any, q: Any, k: Any, v: Any, decay: Any, n_agents: Any, causal: Any, resets: Any, states: Any,
    y: Any,
) -> None:  # fmt: skip
    """Fill y, and advance the states in place.

    q, k (batch, length, heads, d_k), v, y (batch, length, heads, d_v), decay (heads,), resets (batch, length /
    n_agents) or empty, states (batch, heads, d_k, d_v), or empty to start from zeros and discard them.
    """
    _, length, heads, d_k = q.shape
    d_v = v.shape[3]
    zero = q.dtype.type(0)
    has_states, is_whole = len(states) > 0, not causal and n_agents >= LARGE
    size = min(CHUNK, length)
    factors = scratch(1, size * heads * d_k, decay)[0][: size * heads * d_k].reshape(size, heads, d_k)
    reads, writes, powers = np.empty(size, np.int64), np.empty(size, np.int64), _powers(decay)
    own_state = np.empty((heads, d_k, d_v), decay.dtype)
    for b in range(begin, end):
        state = states[b] if has_states else own_state
        last = 0
        while last < length:
            first, last = last, _chunk_end(b, last, n_agents, is_whole, length, resets)
            begins_linked = _is_linked(b, first, n_agents, length, has_states, resets)
            if is_whole:
                _decay_state(state, powers[1], begins_linked)
                write(b, first, last, k[b, first:last], v, state)
                y[b, first:last] = zero
                read(b, first, last, q[b, first:last], state, y)
                continue
            tokens = last - first
            total = _ages(first, last, n_agents, reads, writes)
            for t in range(tokens):
                seen = t + 1 if causal else (t // n_agents + 1) * n_agents
                for h in range(heads):
                    for j in range(d_v):
                        y[b, first + t, h, j] = zero
                    for s in range(seen):
                        score = zero
                        for i in range(d_k):
                            score += q[b, first + t, h, i] * k[b, first + s, h, i]
                        score *= powers[reads[t] - reads[s], h]
                        for j in range(d_v):
                            y[b, first + t, h, j] += score * v[b, first + s, h, j]
            if begins_linked:
                _decay_tokens(b, first, q, reads, tokens, powers, factors)
                read(b, first, last, factors, state, y)
            if _is_linked(b, last, n_agents, length, has_states, resets):
                _decay_state(state, powers[total], begins_linked)
                _decay_tokens(b, first, k, writes, tokens, powers, factors)
                write(b, first, last, factors, v, state)


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
    d_v = v.shape[3]
    zero = q.dtype.type(0)
    has_states, is_whole = len(first_states) > 0, not causal and n_agents >= LARGE
    size = min(CHUNK, length)
    rows = scratch(2, size * heads * d_k, decay)
    factors, dots = (rows[0][: size * heads * d_k].reshape(size, heads, d_k),
                     rows[1][: size * heads * d_k].reshape(size, heads, d_k))  # fmt: skip
    reads, writes, powers = np.empty(size, np.int64), np.empty(size, np.int64), _powers(decay)
    state, own_grad = np.empty((heads, d_k, d_v), decay.dtype), np.empty((heads, d_k, d_v), decay.dtype)
    starts = np.empty(length, np.int64)
    for b in range(begin, end):
        # From the first chunk to the last: the part of the queries' gradients that comes from reading the state.
        if has_states:
            state[:] = first_states[b]
        chunks, last = 0, 0
        while last < length:
            first, last = last, _chunk_end(b, last, n_agents, is_whole, length, resets)
            starts[chunks] = first
            chunks += 1
            begins_linked = _is_linked(b, first, n_agents, length, has_states, resets)
            if is_whole:
                _decay_state(state, powers[1], begins_linked)
                write(b, first, last, k[b, first:last], v, state)
                dot_state(b, first, last, grad_y, state, grad_q[b, first:last])
                continue
            total = _ages(first, last, n_agents, reads, writes)
            if begins_linked:
                dot_state(b, first, last, grad_y, state, dots)
                for t in range(last - first):
                    for h in range(heads):
                        for i in range(d_k):
                            grad_q[b, first + t, h, i] = powers[reads[t], h] * dots[t, h, i]
            else:
                grad_q[b, first:last] = zero
            if last < length and _is_linked(b, last, n_agents, length, has_states, resets):
                _decay_state(state, powers[total], begins_linked)
                _decay_tokens(b, first, k, writes, last - first, powers, factors)
                write(b, first, last, factors, v, state)
        # From the last chunk to the first: everything else.
        grad = grad_states[b] if has_states else own_grad
        if not has_states:
            grad[:] = zero
        for c in range(chunks - 1, -1, -1):
            first, last = starts[c], starts[c + 1] if c + 1 < chunks else length
            begins_linked = _is_linked(b, first, n_agents, length, has_states, resets)
            if is_whole:
                write(b, first, last, q[b, first:last], grad_y, grad)
                dot_state(b, first, last, v, grad, grad_k[b, first:last])
                grad_v[b, first:last] = zero
                read(b, first, last, k[b, first:last], grad, grad_v)
                _decay_state(grad, powers[1], begins_linked)
                continue
            tokens = last - first
            total = _ages(first, last, n_agents, reads, writes)
            grad_k[b, first:last] = zero
            grad_v[b, first:last] = zero
            if _is_linked(b, last, n_agents, length, has_states, resets):
                dot_state(b, first, last, v, grad, dots)
                for t in range(tokens):
                    for h in range(heads):
                        for i in range(d_k):
                            grad_k[b, first + t, h, i] = powers[writes[t], h] * dots[t, h, i]
                _decay_tokens(b, first, k, writes, tokens, powers, factors)
                read(b, first, last, factors, grad, grad_v)
            for t in range(tokens):
                seen = t + 1 if causal else (t // n_agents + 1) * n_agents
                for h in range(heads):
                    for s in range(seen):
                        score, grad_score = zero, zero
                        for i in range(d_k):
                            score += q[b, first + t, h, i] * k[b, first + s, h, i]
                        for j in range(d_v):
                            grad_score += grad_y[b, first + t, h, j] * v[b, first + s, h, j]
                        score *= powers[reads[t] - reads[s], h]
                        grad_score *= powers[reads[t] - reads[s], h]
                        for j in range(d_v):
                            grad_v[b, first + s, h, j] += score * grad_y[b, first + t, h, j]
                        for i in range(d_k):
                            grad_q[b, first + t, h, i] += grad_score * k[b, first + s, h, i]
                            grad_k[b, first + s, h, i] += grad_score * q[b, first + t, h, i]
            _decay_state(grad, powers[total], begins_linked)
            if begins_linked:
                _decay_tokens(b, first, q, reads, tokens, powers, factors)
                write(b, first, last, factors, grad_y, grad)
