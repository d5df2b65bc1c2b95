"""Products of a chunk of tokens with a matrix state per head, for CPUs, compiled with numba.

Each sums four terms at a time, so that a row is loaded and stored once for all four. ``state`` is (heads, rows,
columns), ``factors`` and ``out`` are (at least last - first, heads, rows), ``x`` and ``y`` (batch, length, heads,
columns).
"""

from __future__ import annotations

from typing import Any

from rllib_seqmarl.ops.numba_math import kernel


@kernel
def write(b: Any, first: Any, last: Any, factors: Any, x: Any, state: Any) -> None:
    """state[h, i] += sum over t of factors[t, h, i] x[t, h]"""
    tokens = last - first
    heads, rows, columns = state.shape
    whole = tokens - tokens % 4
    for h in range(heads):
        for i in range(rows):
            for t in range(0, whole, 4):
                f0, f1, f2, f3 = factors[t, h, i], factors[t + 1, h, i], factors[t + 2, h, i], factors[t + 3, h, i]
                at = first + t
                for j in range(columns):
                    state[h, i, j] += (
                        f0 * x[b, at, h, j]
                        + f1 * x[b, at + 1, h, j]
                        + f2 * x[b, at + 2, h, j]
                        + f3 * x[b, at + 3, h, j]
                    )
            for t in range(whole, tokens):
                f0 = factors[t, h, i]
                for j in range(columns):
                    state[h, i, j] += f0 * x[b, first + t, h, j]


@kernel
def read(b: Any, first: Any, last: Any, factors: Any, state: Any, y: Any) -> None:
    """y[t, h] += sum over i of factors[t, h, i] state[h, i]"""
    heads, rows, columns = state.shape
    whole = rows - rows % 4
    for t in range(first, last):
        for h in range(heads):
            for i in range(0, whole, 4):
                f0, f1 = factors[t - first, h, i], factors[t - first, h, i + 1]
                f2, f3 = factors[t - first, h, i + 2], factors[t - first, h, i + 3]
                for j in range(columns):
                    y[b, t, h, j] += (
                        f0 * state[h, i, j]
                        + f1 * state[h, i + 1, j]
                        + f2 * state[h, i + 2, j]
                        + f3 * state[h, i + 3, j]
                    )
            for i in range(whole, rows):
                f0 = factors[t - first, h, i]
                for j in range(columns):
                    y[b, t, h, j] += f0 * state[h, i, j]


@kernel
def dot_state(b: Any, first: Any, last: Any, x: Any, state: Any, out: Any) -> None:
    """out[t, h, i] = x[t, h] . state[h, i]"""
    tokens = last - first
    heads, rows, columns = state.shape
    zero = x.dtype.type(0)
    whole = tokens - tokens % 4
    for h in range(heads):
        for i in range(rows):
            for t in range(0, whole, 4):
                s0, s1, s2, s3 = zero, zero, zero, zero
                at = first + t
                for j in range(columns):
                    s0 += x[b, at, h, j] * state[h, i, j]
                    s1 += x[b, at + 1, h, j] * state[h, i, j]
                    s2 += x[b, at + 2, h, j] * state[h, i, j]
                    s3 += x[b, at + 3, h, j] * state[h, i, j]
                out[t, h, i], out[t + 1, h, i], out[t + 2, h, i], out[t + 3, h, i] = s0, s1, s2, s3
            for t in range(whole, tokens):
                s0 = zero
                for j in range(columns):
                    s0 += x[b, first + t, h, j] * state[h, i, j]
                out[t, h, i] = s0
