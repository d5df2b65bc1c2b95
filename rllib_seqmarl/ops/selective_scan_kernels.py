"""The selective scan for CPUs: one forward and one backward pass, with states in the processor's cache.

A sequence's states are processed one after another, each along the whole sequence, so the working set is a few planes
of length x dim numbers that stay in the L1 cache. Nothing of size length x state x dim is stored: the backward pass
recomputes the recurrence.

Loops index whole arrays (a slice in a kernel counts references, which costs more than a short inner loop), and loops
over many arrays are split in two (LLVM does not vectorise a loop that needs too many overlap checks).
"""

from typing import Any

import numpy as np

from rllib_seqmarl.ops.numba_math import LOG2_E, exp, exp2, kernel, log1p, scratch


@kernel
def _steps(b: Any, delta: Any, weight: Any, bias: Any, softplus: Any, highest: Any, raw: Any, dt: Any) -> None:
    """Step sizes dt (length, dim) of sequence b, and their values ``raw`` before the softplus.

    ``delta`` is (batch, length, dim), or (batch, length, rank) where ``weight`` (rank, dim) projects it.
    """
    zero = bias.dtype.type(0)
    length, dim = dt.shape
    for t in range(length):
        if len(weight) > 0:
            for d in range(dim):
                raw[t, d] = bias[d]
            for r in range(len(weight)):
                low = delta[b, t, r]
                for d in range(dim):
                    raw[t, d] += low * weight[r, d]
        else:
            for d in range(dim):
                raw[t, d] = bias[d] + delta[b, t, d]
        if softplus:
            for d in range(dim):
                x = raw[t, d]
                dt[t, d] = min(max(x, zero) + log1p(exp(-abs(x))), highest)
        else:
            for d in range(dim):
                dt[t, d] = raw[t, d]


@kernel
def _steps_backward(
    b: Any, delta: Any, weight: Any, softplus: Any, highest: Any, raw: Any, dt: Any, grad: Any, grad_delta: Any,
    grad_weight: Any, grad_bias: Any,
) -> None:  # fmt: skip
    """From the gradient of the dt of `_steps`, which is overwritten, to those of its inputs."""
    length, dim = dt.shape
    zero, one = raw.dtype.type(0), raw.dtype.type(1)
    for t in range(length):
        if softplus:
            for d in range(dim):
                slope = one / (one + exp(-raw[t, d]))
                grad[t, d] *= slope if dt[t, d] < highest else zero
        for d in range(dim):
            grad_bias[d] += grad[t, d]
        if len(weight) > 0:
            for r in range(len(weight)):
                low, total = delta[b, t, r], zero
                for d in range(dim):
                    total += grad[t, d] * weight[r, d]
                    grad_weight[r, d] += low * grad[t, d]
                grad_delta[b, t, r] = total
        else:
            for d in range(dim):
                grad_delta[b, t, d] = grad[t, d]


@kernel
def _gate(b: Any, z: Any, y: Any) -> None:
    """y *= silu(z[b])"""
    one = z.dtype.type(1)
    for t in range(z.shape[1]):
        for d in range(z.shape[2]):
            y[t, d] *= z[b, t, d] / (one + exp(-z[b, t, d]))


@kernel
def _gate_backward(b: Any, z: Any, y: Any, grad_y: Any, grad_z: Any) -> None:
    """grad_z[b] for the gradient grad_y[b] of y silu(z[b])."""
    one = z.dtype.type(1)
    for t in range(z.shape[1]):
        for d in range(z.shape[2]):
            gate = one / (one + exp(-z[b, t, d]))
            grad_z[b, t, d] = grad_y[b, t, d] * y[t, d] * gate * (one + z[b, t, d] * (one - gate))


@kernel
def _planes(b: Any, u: Any, D: Any, dt: Any, du: Any, y: Any) -> None:
    """Initialise the scan of sequence b: du = dt u, y = D u."""
    for t in range(dt.shape[0]):
        for d in range(dt.shape[1]):
            du[t, d] = dt[t, d] * u[b, t, d]
        for d in range(dt.shape[1]):
            y[t, d] = D[d] * u[b, t, d]


@kernel
def forward(
    begin: Any, end: Any, u: Any, delta: Any, weight: Any, bias: Any, softplus: Any, highest: Any, A: Any, B: Any,
    C: Any, D: Any, z: Any, gated: Any, resets: Any, states: Any, y: Any,
) -> None:  # fmt: skip
    """Scan sequences ``begin`` to ``end`` of the batch: fill y and advance states in place.

    u, z, y (batch, length, dim); delta and weight as in `_steps`; B, C (batch, length, state); A (state, dim), times
    log2(e); D, bias (dim,); states (batch, state, dim), or (0, state, dim) to start from zeros and discard them;
    resets (batch, length), or (0, 0) for none.
    """
    _, length, dim = u.shape
    n = length * dim
    zero = D.dtype.type(0)
    has_states, has_resets = len(states) > 0, len(resets) > 0
    planes = scratch(4, n, D)
    raw, dt = planes[0][:n].reshape(length, dim), planes[1][:n].reshape(length, dim)
    du, h = planes[2][:n].reshape(length, dim), planes[3][:dim]
    for b in range(begin, end):
        _steps(b, delta, weight, bias, softplus, highest, raw, dt)
        _planes(b, u, D, dt, du, y[b])
        for s in range(A.shape[0]):
            for d in range(dim):
                h[d] = states[b, s, d] if has_states else zero
            for t in range(length):
                b_ts, c_ts = B[b, t, s], C[b, t, s]
                if has_resets and resets[b, t]:
                    for d in range(dim):
                        h[d] = zero
                for d in range(dim):
                    h[d] = exp2(dt[t, d] * A[s, d]) * h[d] + du[t, d] * b_ts
                    y[b, t, d] += c_ts * h[d]
            if has_states:
                for d in range(dim):
                    states[b, s, d] = h[d]
        if gated:
            _gate(b, z, y[b])


@kernel
def backward(
    begin: Any, end: Any, u: Any, delta: Any, weight: Any, bias: Any, softplus: Any, highest: Any, A: Any, B: Any,
    C: Any, D: Any, z: Any, gated: Any, resets: Any, states: Any, grad_y: Any, grad_states: Any, grad_u: Any,
    grad_delta: Any, grad_B: Any, grad_C: Any, grad_z: Any,
) -> Any:  # fmt: skip
    """Fill the gradients of batched inputs, and return those of A (before its scaling), D, bias, weight.

    ``states`` holds the states that `forward` started from. ``grad_states`` holds the gradient of the last states, and
    is overwritten by that of the first.
    """
    _, length, dim = u.shape
    state = A.shape[0]
    dtype = u.dtype
    zero, from_log2 = dtype.type(0), dtype.type(1 / LOG2_E)
    has_states, has_resets = len(states) > 0, len(resets) > 0
    grad_A = np.zeros((state, dim), dtype)
    grad_D, grad_bias, grad_weight = np.zeros(dim, dtype), np.zeros(dim, dtype), np.zeros_like(weight)
    n = length * dim
    planes = scratch(11, n, D)
    raw, dt = planes[0][:n].reshape(length, dim), planes[1][:n].reshape(length, dim)
    du, y = planes[2][:n].reshape(length, dim), planes[3][:n].reshape(length, dim)
    # Of one state: its decay, and the part carried over from the previous token.
    decay, carried = planes[4][:n].reshape(length, dim), planes[5][:n].reshape(length, dim)
    grad, grad_du = planes[6][:n].reshape(length, dim), planes[7][:n].reshape(length, dim)
    grad_dt, h, grad_h = planes[8][:n].reshape(length, dim), planes[9][:dim], planes[10][:dim]
    for b in range(begin, end):
        _steps(b, delta, weight, bias, softplus, highest, raw, dt)
        _planes(b, u, D, dt, du, y)
        grad[:] = grad_y[b]
        if gated:
            _gate(b, z, grad)
        grad_du[:] = zero
        grad_dt[:] = zero
        for s in range(state):
            for d in range(dim):
                h[d] = states[b, s, d] if has_states else zero
            for t in range(length):
                b_ts, c_ts = B[b, t, s], C[b, t, s]
                if has_resets and resets[b, t]:
                    for d in range(dim):
                        h[d] = zero
                for d in range(dim):
                    a = exp2(dt[t, d] * A[s, d])
                    decay[t, d] = a
                    a *= h[d]
                    carried[t, d] = a
                    h[d] = a + du[t, d] * b_ts
                if gated:
                    for d in range(dim):
                        y[t, d] += c_ts * h[d]
            for d in range(dim):
                grad_h[d] = grad_states[b, s, d] if has_states else zero
            for t in range(length - 1, -1, -1):
                b_ts, c_ts, sum_b, sum_c = B[b, t, s], C[b, t, s], zero, zero
                for d in range(dim):
                    sum_c += grad[t, d] * (carried[t, d] + du[t, d] * b_ts)
                    g = grad_h[d] + c_ts * grad[t, d]
                    sum_b += g * du[t, d]
                    grad_du[t, d] += g * b_ts
                    grad_h[d] = g
                for d in range(dim):
                    g = grad_h[d]
                    grad_h[d] = g * decay[t, d]
                    g *= carried[t, d]
                    grad_dt[t, d] += g * A[s, d]
                    grad_A[s, d] += g * dt[t, d]
                grad_B[b, t, s] = sum_b
                grad_C[b, t, s] = sum_c
                if has_resets and resets[b, t]:
                    for d in range(dim):
                        grad_h[d] = zero
            if has_states:
                for d in range(dim):
                    grad_states[b, s, d] = grad_h[d]
        if gated:
            _gate_backward(b, z, y, grad_y, grad_z)
        for t in range(length):
            for d in range(dim):
                grad_u[b, t, d] = grad[t, d] * D[d] + grad_du[t, d] * dt[t, d]
            for d in range(dim):
                grad_D[d] += grad[t, d] * u[b, t, d]
            for d in range(dim):
                # A is scaled by log2(e), and so is the gradient through it.
                grad_dt[t, d] = grad_dt[t, d] * from_log2 + grad_du[t, d] * u[b, t, d]
        _steps_backward(b, delta, weight, softplus, highest, raw, dt, grad_dt, grad_delta, grad_weight, grad_bias)
    return grad_A, grad_D, grad_bias, grad_weight
