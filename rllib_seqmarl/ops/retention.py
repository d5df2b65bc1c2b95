"""Retention: tokens read their predecessors' values, weighted by q . k and by a decay per time step.

Sable's operation (Mahjoub et al. 2024, arXiv 2410.01706, section 3) over time and agents; with one token per step it
is RetNet's (Sun et al. 2023, arXiv 2307.08621, section 2.1) without rotations. The keywords of all operations are
described in :mod:`rllib_seqmarl.ops`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rllib_seqmarl.ops.backends import (
    AUTO,
    Operation,
    accumulation_dtype,
    check_shapes,
    cuda_backend,
    first_state,
    promote_dtypes,
    reference_backend,
)
from rllib_seqmarl.ops.numba_support import numba_backend

CHUNK = 64  # tokens; the cost per token grows with the chunk, the number of sequential operations falls
LOWEST_LOG_DECAY = -100.0  # its exponential is zero in float32


def retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    return_last_state: bool = False,
    *,
    n_agents: int = 1,
    causal: bool = True,
    initial_state: Tensor | None = None,
    resets: Tensor | None = None,
    backend: str = AUTO,
) -> Any:
    """Compute the retention of sequences of time steps with ``n_agents`` tokens each.

    Token t * n_agents + i belongs to agent i at time step t. Per head, a time step multiplies the state S (d_k, d_v)
    by the decay, once for all agents. Then, with ``causal``, agent after agent adds k^T v to S and reads y = q S;
    otherwise all agents write before the first one reads. The state that is passed and returned is S after the writes
    of a time step: it has not been decayed for the next one.

    With a decay of one, a time step can also be a group of agents of the same step: each token reads its own group and
    earlier ones. The cost is linear in the length.

    Args:
        q: Queries (batch, length, heads, d_k); they are not scaled.
        k: Keys, of the same shape.
        v: Values (batch, length, heads, d_v).
        decay: (heads,), the decay per time step, from 0 to 1; constants without a gradient.
        n_agents: Tokens per time step; the length is a multiple of it.
        causal: Whether a token reads only itself and its predecessors within its time step, or all tokens of that step.
        initial_state: S before the first time step (batch, heads, d_k, d_v).
        resets: (batch, length / n_agents) bool; S is zero before these time steps.

    Returns:
        y (batch, length, heads, d_v), and if requested the last state.

    Raises:
        ValueError: The length is not a multiple of ``n_agents``, or the decay requires a gradient; or as in
            :mod:`rllib_seqmarl.ops`.
    """
    batch_size, length, heads, d_k = q.shape
    if n_agents < 1 or length % n_agents:
        raise ValueError(f"n_agents must be at least 1 and divide the number of tokens, {length}, not {n_agents}")
    if decay.requires_grad:
        raise ValueError("decay must be constant, since it gets no gradient; pass decay.detach()")
    state_shape = batch_size, heads, d_k, v.shape[-1]
    check_shapes(
        "q", q, k=(k, q.shape), v=(v, (*q.shape[:3], v.shape[-1])), decay=(decay, (heads,)),
        initial_state=(initial_state, state_shape), resets=(resets, (batch_size, length // n_agents)),
    )  # fmt: skip
    q, k, v = promote_dtypes(q, k, v)
    decay = decay.to(accumulation_dtype(q.dtype))
    state = first_state(initial_state, return_last_state, state_shape, q)
    y, last_state = RETENTION.choose(backend, q)(q, k, v, decay, n_agents, causal or n_agents == 1, state, resets)
    return (y, last_state) if return_last_state else y


def reference_retention(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, n_agents: int, causal: bool, initial_state: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Scores within chunks of N x C tokens and a state between chunks; differentiated by autograd."""
    dtype, length = q.dtype, q.shape[1]
    size = min(CHUNK if causal else max(1, CHUNK // n_agents) * n_agents, length)
    q, k, v = (_chunks(x, size) for x in promote_dtypes(q, k, v, at_least=torch.float32))  # (B, N, H, C, d)
    # The last chunk is filled up with keys and values of zero, as further tokens of the last time step.
    times = torch.arange(q.shape[1] * size, device=q.device).clamp(max=length - 1) // n_agents
    scored, read, written, kept = _weights(times.view(-1, size), decay, causal, resets)
    if initial_state is None and size >= length:
        return _tokens(q @ k.mT * scored @ v, length).to(dtype), None
    zeros = q.new_zeros(q.shape[0], q.shape[2], q.shape[-1], v.shape[-1])
    states = [zeros if initial_state is None else initial_state]  # before each chunk, and after the last one
    for keep, write in zip(kept.unbind(1), ((k * written).mT @ v).unbind(1), strict=True):
        states.append(keep * states[-1] + write)
    if not causal and size == n_agents:  # all tokens of a chunk read the state after it
        y = q @ torch.stack(states[1:], dim=1)
    else:
        y = (q * read) @ torch.stack(states[:-1], dim=1) + q @ k.mT * scored @ v
    return _tokens(y, length).to(dtype), states[-1]


def _chunks(x: Tensor, size: int) -> Tensor:
    """(B, L, H, d), filled up with zeros to whole chunks of ``size`` tokens, as (B, N, H, C, d)."""
    return F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % size)).unflatten(1, (-1, size)).transpose(2, 3)


def _tokens(y: Tensor, length: int) -> Tensor:
    """The inverse of :func:`_chunks`."""
    return y.transpose(2, 3).flatten(1, 2)[:, :length]


def _weights(times: Tensor, decay: Tensor, causal: bool, resets: Tensor | None) -> list[Tensor]:
    """How much is left of one token's write when another one reads it, and of the state before and after a chunk.

    Args:
        times: The time steps of tokens (N, C).
        decay: (H,).
        causal: As in :func:`retention`.
        resets: (B, T) bool, or None.

    Returns:
        Weights of scores (B or 1, N, H, C, C), of tokens that read the state before the chunk (..., C, 1), of tokens
        that write the state after the chunk (..., C, 1), and of the former state in the latter (..., 1, 1).
    """

    def pairs(x: Tensor, first: int) -> list[tuple[Tensor, Tensor]]:
        """``x`` (..., N, C) of readers and of writers; of states, as of the last token before them."""
        end = x[..., -1:]
        start = F.pad(end[..., :-1, :], (0, 0, 1, 0), value=first)
        x, start, end = x.unsqueeze(-1), start.unsqueeze(-1), end.unsqueeze(-1)
        return [(x, x.mT), (x, start), (end, x), (end, start)]

    ages = [late - early for late, early in pairs(times, -1)]  # (N, ...)
    weights = [decay.view(-1, 1, 1) ** age.clamp(min=0).unsqueeze(1) for age in ages]  # (N, H, ...)
    visible = torch.ones_like(ages[0], dtype=torch.bool).tril() if causal else ages[0] >= 0
    weights[0] = weights[0] * visible.unsqueeze(1)
    if resets is None:
        return [weight.unsqueeze(0) for weight in weights]
    episodes = pairs(resets.cumsum(1)[:, times], 0)
    return [weight * (late == early).unsqueeze(2) for weight, (late, early) in zip(weights, episodes, strict=True)]


def _fla() -> Callable[..., tuple[Tensor, Tensor | None]]:
    operations = import_module("fla.ops.simple_gla")
    short, long = operations.fused_recurrent_simple_gla, operations.chunk_simple_gla
    if any(getattr(signature(f).parameters.get("head_first"), "default", False) is True for f in (short, long)):
        raise ImportError(
            "this version of flash-linear-attention expects heads before tokens; "
            "`pip install -U flash-linear-attention`"
        )

    def run(
        q: Tensor, k: Tensor, v: Tensor, decay: Tensor, n_agents: int, causal: bool, initial_state: Tensor | None,
        resets: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        # The library is causal and has no resets; some versions ignore the last state's gradient.
        if not causal or resets is not None or (initial_state is not None and torch.is_grad_enabled()):
            return reference_retention(q, k, v, decay, n_agents, causal, initial_state, resets)
        is_first = torch.arange(q.shape[1], device=q.device) % n_agents == 0
        log_decay = decay.log().clamp(min=LOWEST_LOG_DECAY) * is_first.unsqueeze(-1)  # (L, H)
        y, last_state = (short if q.shape[1] < CHUNK else long)(
            q, k, v, log_decay.expand(len(q), -1, -1).contiguous(), scale=1.0, initial_state=initial_state,
            output_final_state=initial_state is not None,
        )  # fmt: skip
        return y, last_state

    return run


RETENTION = Operation(
    "retention",
    [
        cuda_backend("fla", _fla, "fla", "flash-linear-attention"),
        numba_backend("rllib_seqmarl.ops.retention_numba", "numba_retention"),
        reference_backend(reference_retention, "plain torch, chunk by chunk"),
    ],
)
