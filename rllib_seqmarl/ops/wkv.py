"""The recurrences of RWKV: a token reads its predecessors' values, weighted by their keys and age.

``wkv4`` is RWKV-4's weighted average per channel (Peng et al. 2023, arXiv 2305.13048, eq. 16). ``wkv6`` keeps a matrix
per head (Eagle and Finch; Peng et al. 2024, arXiv 2404.05892, section 4): RWKV-6's directly, RWKV-5's with a decay that
is constant in time. The keywords of all operations are described in :mod:`rllib_seqmarl.ops`.
"""

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from rllib_seqmarl.ops.backends import (
    AUTO,
    Operation,
    check_shapes,
    cuda_backend,
    first_state,
    promote_dtypes,
    reference_backend,
    reset_state,
)
from rllib_seqmarl.ops.numba_support import numba_backend

LOWEST_EXPONENT = -1e38  # of the empty state before the first token


def wkv4(
    w: Tensor,
    u: Tensor,
    k: Tensor,
    v: Tensor,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    resets: Tensor | None = None,
    backend: str = AUTO,
) -> Any:
    """Compute RWKV-4's WKV of sequences, numerically safe for keys of any size.

    y_t = (sum_{s<t} e^((t-1-s) w + k_s) v_s + e^(u + k_t) v_t) / (sum_{s<t} e^((t-1-s) w + k_s) + e^(u + k_t)).

    The state holds the numerator's and the denominator's sums over predecessors in units of e^exponent ("total" and
    "weight"), and the exponent. The exponent has no gradient, and does not count where the weight is 0.

    Args:
        w: (dim,), at most 0; the logarithm of the decay per token, -exp(time_decay).
        u: (dim,), added to a token's own key (time_first).
        k: Keys (batch, length, dim).
        v: Values (batch, length, dim).
        initial_state: Total, weight and exponent before the first token (batch, 3, dim).

    Returns:
        y (batch, length, dim), and if requested the last state (batch, 3, dim), in float32 or wider.
    """
    batch_size, length, dim = k.shape
    check_shapes(
        "k", k, w=(w, (dim,)), u=(u, (dim,)), v=(v, k.shape), initial_state=(initial_state, (batch_size, 3, dim)),
        resets=(resets, (batch_size, length)),
    )  # fmt: skip
    w, u, k, v = promote_dtypes(w, u, k, v)
    state = first_state(initial_state, return_last_state, (batch_size, 3, dim), k)
    if state is not None:
        exponent = state[:, 2].detach().masked_fill(state[:, 1] == 0, LOWEST_EXPONENT)
        state = torch.stack([state[:, 0], state[:, 1], exponent], dim=1)
    y, last_state = WKV4.choose(backend, k)(w, u, k, v, state, resets)
    return (y, last_state) if return_last_state else y


def wkv6(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    resets: Tensor | None = None,
    backend: str = AUTO,
) -> Any:
    """Compute the matrix-state WKV of sequences.

    Per head, with the state S (size, size) before the token: y_t = r_t (S + diag(u) k_t^T v_t), and
    S becomes diag(exp(w_t)) S + k_t^T v_t.

    Args:
        r: Receptances (batch, length, heads, size).
        k: Keys, of the same shape.
        v: Values, of the same shape.
        w: Logarithms of the decays, at most 0; of the same shape, or (heads, size) if they are constant in time.
        u: (heads, size), the weight of a token's own key.
        initial_state: S before the first token (batch, heads, size, size), keys before values.

    Returns:
        y (batch, length, heads, size), and if requested the last state.
    """
    state_shape = r.shape[0], r.shape[2], r.shape[3], r.shape[3]
    w_shape = r.shape[2:] if w.dim() == 2 else r.shape
    check_shapes(
        "r", r, k=(k, r.shape), v=(v, r.shape), w=(w, w_shape), u=(u, r.shape[2:]), resets=(resets, r.shape[:2]),
        initial_state=(initial_state, state_shape),
    )  # fmt: skip
    r, k, v, w, u = promote_dtypes(r, k, v, w, u)
    state = first_state(initial_state, return_last_state, state_shape, r)
    y, last_state = WKV6.choose(backend, r)(r, k, v, w, u, state, resets)
    return (y, last_state) if return_last_state else y


def reference_wkv4(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, initial_state: Tensor | None, resets: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The recurrence, token by token, in units of e^(largest exponent so far); differentiated by autograd."""
    dtype = k.dtype
    w, u, k, v = promote_dtypes(w, u, k, v, at_least=torch.float32)
    zeros = k.new_zeros(k.shape[0], k.shape[2])
    empty = zeros, zeros, zeros + LOWEST_EXPONENT
    # Total, weight and exponent, each (batch, dim).
    state: tuple[Tensor, ...] = empty if initial_state is None else initial_state.unbind(1)
    outputs = []
    for t, (k_t, v_t) in enumerate(zip(k.unbind(1), v.unbind(1), strict=True)):
        if resets is not None:
            state = tuple(old.where(~resets[:, t, None], new) for old, new in zip(state, empty, strict=True))
        y, state = _token4(w, u, k_t, v_t, state)
        outputs.append(y)
    return torch.stack(outputs, dim=1).to(dtype), None if initial_state is None else torch.stack(state, dim=1)


def _token4(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
    total, weight, highest = state
    # The output does not depend on the unit, so it needs no gradient.
    unit = torch.maximum(highest, u + k).detach()
    old, new = torch.exp(highest - unit), torch.exp(u + k - unit)
    y = (old * total + new * v) / (old * weight + new)
    unit = torch.maximum(highest + w, k).detach()
    old, new = torch.exp(highest + w - unit), torch.exp(k - unit)
    return y, (old * total + new * v, old * weight + new, unit)


def reference_wkv6(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, initial_state: Tensor | None, resets: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The recurrence as written, token by token; differentiated by autograd."""
    dtype = r.dtype
    r, k, v, w, u = promote_dtypes(r, k, v, w, u, at_least=torch.float32)
    # (batch, heads, size, size)
    state = r.new_zeros(r.shape[0], *u.shape, u.shape[1]) if initial_state is None else initial_state
    decay = w.exp().expand_as(k)
    outputs = []
    tokens = zip(r.unbind(1), k.unbind(1), v.unbind(1), decay.unbind(1), strict=True)
    for t, (r_t, k_t, v_t, decay_t) in enumerate(tokens):
        state = reset_state(state, resets, t)
        written = k_t.unsqueeze(-1) * v_t.unsqueeze(-2)  # (batch, heads, size, size)
        outputs.append((r_t.unsqueeze(-2) @ (state + u.unsqueeze(-1) * written)).squeeze(-2))
        state = decay_t.unsqueeze(-1) * state + written
    return torch.stack(outputs, dim=1).to(dtype), state


def _fla() -> Callable[..., tuple[Tensor, Tensor | None]]:
    # Teams are short sequences: the library's sequential kernel starts faster than its chunked one.
    fused_recurrent_rwkv6 = import_module("fla.ops.rwkv6").fused_recurrent_rwkv6
    if getattr(signature(fused_recurrent_rwkv6).parameters.get("head_first"), "default", False) is True:
        raise ImportError(
            "this version of flash-linear-attention expects heads before tokens; "
            "`pip install -U flash-linear-attention`"
        )

    def run(
        r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, initial_state: Tensor | None, resets: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        # The library has no resets and ignores the last state's gradient.
        if resets is not None or (initial_state is not None and torch.is_grad_enabled()):
            return reference_wkv6(r, k, v, w, u, initial_state, resets)
        y, last_state = fused_recurrent_rwkv6(
            r, k, v, w.expand_as(k).contiguous(), u, scale=1.0, initial_state=initial_state,
            output_final_state=initial_state is not None,
        )  # fmt: skip
        return y, last_state

    return run


_REMARK = "plain torch, token by token; on a CPU `pip install numba` makes it several times faster"

WKV4 = Operation(
    "wkv4",
    [
        numba_backend("rllib_seqmarl.ops.wkv4_numba", "numba_wkv4"),
        reference_backend(reference_wkv4, _REMARK, is_slow=True),
    ],
)
WKV6 = Operation(
    "wkv6",
    [
        cuda_backend("fla", _fla, "fla", "flash-linear-attention"),
        numba_backend("rllib_seqmarl.ops.wkv6_numba", "numba_wkv6"),
        reference_backend(reference_wkv6, _REMARK, is_slow=True),
    ],
)
