"""The matrix-state WKV of RWKV-5 and 6 for CPUs, compiled with numba.

Within a chunk, each token reads every predecessor's key, which is stored and decayed step by step: chunk * size
operations per token and head, compared with size * size for the state. Only chunks are linked by the state, so a team
of up to one chunk needs none. A chunk also ends before a reset, which unlinks it from the next one. Decays are only
multiplied, never divided by, so nothing overflows.

Arrays are indexed [sequence, token, head, channel], with all loops over heads and channels starting from 0: LLVM does
not vectorise a loop in which an index might be negative.
"""

from typing import Any

import numpy as np

from rllib_seqmarl.ops.numba_math import exp, kernel, scratch

CHUNK = 32  # tokens; with 16, teams of 17 took twice as long, and larger teams gained little


# Positions in a sequence of ``length`` tokens with ``resets`` (batch, length), or (0, 0) for none.


@kernel
def _chunk_end(b: Any, first: Any, chunk: Any, length: Any, resets: Any) -> Any:
    """The end of the chunk that begins at ``first``: a multiple of ``chunk``, a reset or the end of the sequence."""
    last = min((first // chunk + 1) * chunk, length)
    if len(resets) > 0:
        for t in range(first + 1, last):
            if resets[b, t]:
                return t
    return last


@kernel
def _chunk_start(b: Any, last: Any, chunk: Any, resets: Any) -> Any:
    """The beginning of the chunk that ends at ``last``."""
    first = (last - 1) // chunk * chunk
    if len(resets) > 0:
        for t in range(last - 1, first, -1):
            if resets[b, t]:
                return t
    return first


@kernel
def _is_linked(b: Any, t: Any, length: Any, has_states: Any, resets: Any) -> Any:
    """Whether a state is handed over at the border ``t`` of a chunk."""
    if t == length:
        return has_states
    if len(resets) > 0 and resets[b, t]:
        return False
    return has_states or t > 0


@kernel
def _decays(b: Any, first: Any, last: Any, w: Any, decay: Any, since: Any) -> None:
    """Decays of the tokens first..last, and their products from the start of the chunk to each token and its end."""
    one = w.dtype.type(1)
    b = b if w.shape[0] > 1 else 0
    for h in range(w.shape[2]):
        for i in range(w.shape[3]):
            since[0, h, i] = one
    for t in range(last - first):
        at = first + t if w.shape[1] > 1 else 0
        for h in range(w.shape[2]):
            for i in range(w.shape[3]):
                decay[t, h, i] = exp(w[b, at, h, i])
            for i in range(w.shape[3]):
                since[t + 1, h, i] = since[t, h, i] * decay[t, h, i]


@kernel
def _decay_keys(b: Any, first: Any, last: Any, k: Any, decay: Any, decayed: Any) -> None:
    """decayed: the keys of the chunk, decayed to the first token after it."""
    one = k.dtype.type(1)
    tokens = last - first
    for h in range(k.shape[2]):
        for i in range(k.shape[3]):
            decayed[tokens - 1, h, i] = one
        for s in range(tokens - 1, 0, -1):
            for i in range(k.shape[3]):
                decayed[s - 1, h, i] = decayed[s, h, i] * decay[s, h, i]
        for s in range(tokens):
            for i in range(k.shape[3]):
                decayed[s, h, i] *= k[b, first + s, h, i]


# Three products of a chunk with a state, four terms at a time, so that a row is loaded and stored once for all four.


@kernel
def _write(b: Any, first: Any, last: Any, factors: Any, x: Any, state: Any) -> None:
    """state[h, i] += sum over t of factors[t, h, i] x[t, h]"""
    tokens, heads, size = last - first, x.shape[2], x.shape[3]
    whole = tokens - tokens % 4
    for h in range(heads):
        for i in range(size):
            for t in range(0, whole, 4):
                f0, f1, f2, f3 = factors[t, h, i], factors[t + 1, h, i], factors[t + 2, h, i], factors[t + 3, h, i]
                at = first + t
                for j in range(size):
                    state[h, i, j] += (
                        f0 * x[b, at, h, j]
                        + f1 * x[b, at + 1, h, j]
                        + f2 * x[b, at + 2, h, j]
                        + f3 * x[b, at + 3, h, j]
                    )
            for t in range(whole, tokens):
                f0 = factors[t, h, i]
                for j in range(size):
                    state[h, i, j] += f0 * x[b, first + t, h, j]


@kernel
def _read(b: Any, first: Any, last: Any, factors: Any, state: Any, y: Any) -> None:
    """y[t, h] += sum over i of factors[t, h, i] state[h, i]"""
    heads, size = y.shape[2], y.shape[3]
    whole = size - size % 4
    for t in range(first, last):
        for h in range(heads):
            for i in range(0, whole, 4):
                f0, f1 = factors[t - first, h, i], factors[t - first, h, i + 1]
                f2, f3 = factors[t - first, h, i + 2], factors[t - first, h, i + 3]
                for j in range(size):
                    y[b, t, h, j] += (
                        f0 * state[h, i, j]
                        + f1 * state[h, i + 1, j]
                        + f2 * state[h, i + 2, j]
                        + f3 * state[h, i + 3, j]
                    )
            for i in range(whole, size):
                f0 = factors[t - first, h, i]
                for j in range(size):
                    y[b, t, h, j] += f0 * state[h, i, j]


@kernel
def _dot_state(b: Any, first: Any, last: Any, x: Any, state: Any, out: Any) -> None:
    """out[t, h, i] = x[t, h] . state[h, i]"""
    tokens, heads, size = last - first, x.shape[2], x.shape[3]
    zero = x.dtype.type(0)
    whole = tokens - tokens % 4
    for h in range(heads):
        for i in range(size):
            for t in range(0, whole, 4):
                s0, s1, s2, s3 = zero, zero, zero, zero
                at = first + t
                for j in range(size):
                    s0 += x[b, at, h, j] * state[h, i, j]
                    s1 += x[b, at + 1, h, j] * state[h, i, j]
                    s2 += x[b, at + 2, h, j] * state[h, i, j]
                    s3 += x[b, at + 3, h, j] * state[h, i, j]
                out[t, h, i], out[t + 1, h, i], out[t + 2, h, i], out[t + 3, h, i] = s0, s1, s2, s3
            for t in range(whole, tokens):
                s0 = zero
                for j in range(size):
                    s0 += x[b, first + t, h, j] * state[h, i, j]
                out[t, h, i] = s0


@kernel
def _decay_state(decay: Any, is_nonzero: Any, before: Any, after: Any) -> None:
    """after: the state ``before`` a chunk, decayed over that chunk; zero unless ``is_nonzero``."""
    zero = decay.dtype.type(0)
    for h in range(after.shape[0]):
        for i in range(after.shape[1]):
            for j in range(after.shape[2]):
                after[h, i, j] = decay[h, i] * before[h, i, j] if is_nonzero else zero


@kernel
def _decay_receptances(b: Any, first: Any, last: Any, r: Any, since: Any, factors: Any) -> None:
    """factors: each token's receptance, times the decay since the start of the chunk."""
    for t in range(last - first):
        for h in range(r.shape[2]):
            for i in range(r.shape[3]):
                factors[t, h, i] = r[b, first + t, h, i] * since[t, h, i]


@kernel
def forward(
    begin: Any, end: Any, r: Any, k: Any, v: Any, w: Any, u: Any, resets: Any, states: Any, y: Any
) -> None:  # fmt: skip
    """Fill y, and advance the states in place.

    r, k, v, y (batch, length, heads, size), w likewise or with batch = length = 1, u (heads, size), resets (batch,
    length) or empty, states (batch, heads, size, size), or empty to start from zeros and discard them.
    """
    _, length, heads, size = r.shape
    has_states = len(states) > 0
    zero = r.dtype.type(0)
    chunk = min(CHUNK, length)
    n = chunk * heads * size
    rows = scratch(4, n + heads * size, u)
    decay, keys, factors = (rows[0][:n].reshape(chunk, heads, size), rows[1][:n].reshape(chunk, heads, size),
                            rows[2][:n].reshape(chunk, heads, size))  # fmt: skip
    since = rows[3][: n + heads * size].reshape(chunk + 1, heads, size)
    no_states = np.empty((heads, size, size) if length > chunk else (0, 0, 0), u.dtype)
    for b in range(begin, end):
        state = states[b] if has_states else no_states
        last = 0
        while last < length:
            first, last = last, _chunk_end(b, last, chunk, length, resets)
            _decays(b, first, last, w, decay, since)
            for t in range(first, last):
                for h in range(heads):
                    score = zero
                    for i in range(size):
                        score += r[b, t, h, i] * u[h, i] * k[b, t, h, i]
                    for j in range(size):
                        y[b, t, h, j] = score * v[b, t, h, j]
                    for s in range(t - first):
                        score = zero
                        for i in range(size):
                            score += r[b, t, h, i] * keys[s, h, i]
                        for j in range(size):
                            y[b, t, h, j] += score * v[b, first + s, h, j]
                        for i in range(size):
                            keys[s, h, i] *= decay[t - first, h, i]
                    for i in range(size):
                        keys[t - first, h, i] = k[b, t, h, i]
            is_linked = _is_linked(b, first, length, has_states, resets)
            if is_linked:
                _decay_receptances(b, first, last, r, since, factors)
                _read(b, first, last, factors, state, y)
            # Here the keys are decayed to the first token after the chunk.
            if _is_linked(b, last, length, has_states, resets):
                _decay_state(since[last - first], is_linked, state, state)
                _write(b, first, last, keys, v, state)


@kernel
def _decay_past_keys(b: Any, first: Any, last: Any, k: Any, decay: Any, past: Any) -> None:
    """past[t (t - 1) / 2 + s]: the key of token s, decayed to token t, for all s < t of the chunk."""
    for t in range(1, last - first):
        for s in range(t):
            for h in range(k.shape[2]):
                for i in range(k.shape[3]):
                    if s == t - 1:
                        past[t * (t - 1) // 2 + s, h, i] = k[b, first + s, h, i]
                    else:
                        past[t * (t - 1) // 2 + s, h, i] = past[(t - 1) * (t - 2) // 2 + s, h, i] * decay[t - 1, h, i]


@kernel
def backward(
    begin: Any, end: Any, r: Any, k: Any, v: Any, w: Any, u: Any, resets: Any, first_states: Any, grad_y: Any,
    grad_states: Any, grad_r: Any, grad_k: Any, grad_v: Any, grad_w: Any,
) -> Any:  # fmt: skip
    """Fill the gradients of r, k, v and w, and return those of u and of a constant w.

    ``first_states`` holds the states that `forward` started from. ``grad_states`` holds the gradient of the last
    states, and is overwritten by that of the first.
    """
    _, length, heads, size = r.shape
    zero = r.dtype.type(0)
    varies, has_states = w.shape[1] > 1 or w.shape[0] > 1, len(first_states) > 0
    chunk = min(CHUNK, length)
    chunks = (length + chunk - 1) // chunk
    grad_u, grad_const = np.zeros_like(u), np.zeros_like(u)
    n, pairs = chunk * heads * size, max(1, chunk * (chunk - 1) // 2)
    rows = scratch(5, n + heads * size, u)
    decay, factors, dots, grad_decay = (
        rows[0][:n].reshape(chunk, heads, size), rows[1][:n].reshape(chunk, heads, size),
        rows[2][:n].reshape(chunk, heads, size), rows[3][:n].reshape(chunk, heads, size),
    )  # fmt: skip
    since = rows[4][: n + heads * size].reshape(chunk + 1, heads, size)
    past = scratch(1, pairs * heads * size, u)[0][: pairs * heads * size].reshape(pairs, heads, size)
    later = np.empty((heads, size), u.dtype)
    # A state is handed over only to the first chunk that begins in a stretch of ``chunk`` tokens.
    has_links = chunks > 1 or has_states
    states = np.empty((chunks, heads, size, size) if has_links else (1, 1, 1, 1), u.dtype)
    own_grad = np.empty((heads, size, size) if has_links else (1, 1, 1), u.dtype)
    for b in range(begin, end):
        if has_states:
            states[0] = first_states[b]
        first, last = 0, _chunk_end(b, 0, chunk, length, resets)
        while last < length:
            if _is_linked(b, last, length, has_states, resets):
                is_linked = _is_linked(b, first, length, has_states, resets)
                _decays(b, first, last, w, decay, since)
                _decay_keys(b, first, last, k, decay, factors)
                _decay_state(since[last - first], is_linked, states[first // chunk], states[last // chunk])
                _write(b, first, last, factors, v, states[last // chunk])
            first, last = last, _chunk_end(b, last, chunk, length, resets)
        grad_k[b] = zero
        grad_v[b] = zero
        grad = grad_states[b] if has_states else own_grad
        first = length
        while first > 0:
            last, first = first, _chunk_start(b, first, chunk, resets)
            begins_linked = _is_linked(b, first, length, has_states, resets)
            ends_linked = _is_linked(b, last, length, has_states, resets)
            c, tokens = first // chunk, last - first
            _decays(b, first, last, w, decay, since)
            _decay_past_keys(b, first, last, k, decay, past)
            # later[h, i]: the gradient of the logarithm of the decay applied to the state before the chunk.
            later[:] = zero
            if ends_linked:
                _decay_keys(b, first, last, k, decay, factors)
                _read(b, first, last, factors, grad, grad_v)
                _dot_state(b, first, last, v, grad, dots)
                grad_k[b, first:last] = dots[:tokens]
                if begins_linked:
                    for h in range(heads):
                        for i in range(size):
                            total = zero
                            for j in range(size):
                                total += grad[h, i, j] * states[c, h, i, j]
                            later[h, i] = since[tokens, h, i] * total
            _decay_state(since[tokens], begins_linked and ends_linked, grad, grad)
            if begins_linked:
                _decay_receptances(b, first, last, r, since, factors)
                _write(b, first, last, factors, grad_y, grad)
                _dot_state(b, first, last, grad_y, states[c], dots)
            for t in range(tokens - 1, -1, -1):
                at = first + t
                for h in range(heads):
                    score, grad_score = zero, zero
                    for i in range(size):
                        score += r[b, at, h, i] * u[h, i] * k[b, at, h, i]
                        grad_score += grad_y[b, at, h, i] * v[b, at, h, i]
                    for j in range(size):
                        grad_v[b, at, h, j] += score * grad_y[b, at, h, j]
                    for i in range(size):
                        grad_r[b, at, h, i] = grad_score * u[h, i] * k[b, at, h, i]
                    for i in range(size):
                        weighted_r = grad_score * r[b, at, h, i]
                        grad_k[b, at, h, i] += weighted_r * u[h, i]
                        grad_u[h, i] += weighted_r * k[b, at, h, i]
                    for i in range(size):
                        grad_decay[t, h, i] = later[h, i]
                    for s in range(t):
                        pair = t * (t - 1) // 2 + s
                        score, grad_score = zero, zero
                        for i in range(size):
                            score += r[b, at, h, i] * past[pair, h, i]
                            grad_score += grad_y[b, at, h, i] * v[b, first + s, h, i]
                        for j in range(size):
                            grad_v[b, first + s, h, j] += score * grad_y[b, at, h, j]
                        for i in range(size):
                            grad_r[b, at, h, i] += grad_score * past[pair, h, i]
                        for i in range(size):
                            through = grad_k[b, first + s, h, i] * decay[t, h, i]
                            grad_decay[t, h, i] += through * past[pair, h, i]
                            grad_k[b, first + s, h, i] = through + grad_score * r[b, at, h, i]
                    if begins_linked:
                        for i in range(size):
                            grad_r[b, at, h, i] += since[t, h, i] * dots[t, h, i]
                        for i in range(size):
                            later[h, i] += factors[t, h, i] * dots[t, h, i]
                    if varies:
                        for i in range(size):
                            grad_w[b, at, h, i] = grad_decay[t, h, i]
                    else:
                        for i in range(size):
                            grad_const[h, i] += grad_decay[t, h, i]
    return grad_u, grad_const
