"""The recurrences of RWKV: a token reads its predecessors' values, weighted by their keys and age.

``wkv4`` is RWKV-4's weighted average per channel (Peng et al. 2023, arXiv 2305.13048, eq. 16). ``wkv6`` keeps a matrix
per head (Eagle and Finch; Peng et al. 2024, arXiv 2404.05892, section 4): RWKV-6's directly, RWKV-5's with a decay that
is constant in time.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import signature

import torch
from torch import Tensor

from rllib_seqmarl.ops.backends import (
    AUTO,
    Backend,
    Operation,
    accumulation_dtype,
    check_shapes,
    cuda_library_obstacle,
    no_obstacle,
    promote_dtypes,
    single_step,
)
from rllib_seqmarl.ops.numba_support import numba_backend

LOWEST_EXPONENT = -1e38  # of the empty state before the first token


def wkv4(w: Tensor, u: Tensor, k: Tensor, v: Tensor, *, backend: str = AUTO) -> Tensor:
    """Compute RWKV-4's WKV of whole sequences, numerically safe for keys of any size.

    y_t = (sum_{s<t} e^((t-1-s) w + k_s) v_s + e^(u + k_t) v_t) / (sum_{s<t} e^((t-1-s) w + k_s) + e^(u + k_t)).

    Args:
        w: (dim,), at most 0; the logarithm of the decay per token, -exp(time_decay).
        u: (dim,), added to a token's own key (time_first).
        k: Keys (batch, length, dim).
        v: Values (batch, length, dim).
        backend: "auto", or a name from ``WKV4.available(device)``.

    Returns:
        (batch, length, dim).

    Raises:
        ValueError: Shapes do not match, or the backend is unknown or cannot run here.
    """
    check_shapes("k", k, w=(w, k.shape[2:]), u=(u, k.shape[2:]), v=(v, k.shape))
    w, u, k, v = promote_dtypes(w, u, k, v)
    y: Tensor = WKV4.choose(backend, k)(w, u, k, v)
    return y


def wkv4_state(batch_size: int, like: Tensor) -> Tensor:
    """The state (batch, 3, dim) before the first token: numerator, denominator, exponent. ``like`` is (dim,).

    Like all states, it is float32 or wider.
    """
    state = like.new_zeros(batch_size, 3, len(like), dtype=accumulation_dtype(like.dtype))
    state[:, 2] = LOWEST_EXPONENT
    return state


@single_step
def wkv4_step(w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor) -> Tensor:
    """Compute one token of :func:`wkv4`, without gradients, in plain torch: k, v and y are (batch, dim).

    ``state`` is updated in place.
    """
    check_shapes(
        "k", k, w=(w, k.shape[1:]), u=(u, k.shape[1:]), v=(v, k.shape), state=(state, (k.shape[0], 3, k.shape[1]))
    )
    dtype = k.dtype
    w, u, k, v, state = promote_dtypes(w, u, k, v, state)
    y, new_state = _token4(w, u, k, v, state.unbind(1))
    state.copy_(torch.stack(new_state, dim=1))
    return y.to(dtype)


def wkv6(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, *, backend: str = AUTO) -> Tensor:
    """Compute the matrix-state WKV of whole sequences.

    Per head, with the state S (size, size) before the token: y_t = r_t (S + diag(u) k_t^T v_t), and
    S becomes diag(exp(w_t)) S + k_t^T v_t.

    Args:
        r: Receptances (batch, length, heads, size).
        k: Keys, of the same shape.
        v: Values, of the same shape.
        w: Logarithms of the decays, at most 0; of the same shape, or (heads, size) if they are constant in time.
        u: (heads, size), the weight of a token's own key.
        backend: "auto", or a name from ``WKV6.available(device)``.

    Returns:
        (batch, length, heads, size).

    Raises:
        ValueError: Shapes do not match, or the backend is unknown or cannot run here.
    """
    w_shape = r.shape[2:] if w.dim() == 2 else r.shape
    check_shapes("r", r, k=(k, r.shape), v=(v, r.shape), w=(w, w_shape), u=(u, r.shape[2:]))
    r, k, v, w, u = promote_dtypes(r, k, v, w, u)
    y: Tensor = WKV6.choose(backend, r)(r, k, v, w, u)
    return y


@single_step
def wkv6_step(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor) -> Tensor:
    """Compute one token of :func:`wkv6`, without gradients, in plain torch.

    r, k, v and the result are (batch, heads, size), and w is too or is (heads, size). ``state`` (batch, heads, size,
    size) is zero before the first token and updated in place; its key axis comes before its value axis.
    """
    shape, w_shape = r.shape, r.shape[1:] if w.dim() == 2 else r.shape
    check_shapes(
        "r", r, k=(k, shape), v=(v, shape), w=(w, w_shape), u=(u, shape[1:]), state=(state, (*shape, shape[-1]))
    )  # fmt: skip
    dtype = r.dtype
    r, k, v, w, u, state = promote_dtypes(r, k, v, w, u, state)
    y = (r.unsqueeze(-2) @ state).squeeze(-2) + (r * u * k).sum(-1, keepdim=True) * v  # (batch, heads, size)
    state.mul_(w.exp().unsqueeze(-1)).addcmul_(k.unsqueeze(-1), v.unsqueeze(-2))
    return y.to(dtype)


def reference_wkv4(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The recurrence, token by token, in units of e^(largest exponent so far); differentiated by autograd."""
    dtype = k.dtype
    w, u, k, v = promote_dtypes(w, u, k, v, at_least=torch.float32)
    state = wkv4_state(k.shape[0], k[0, 0]).unbind(1)  # three times (batch, dim)
    outputs = []
    for k_t, v_t in zip(k.unbind(1), v.unbind(1), strict=True):
        y, state = _token4(w, u, k_t, v_t, state)
        outputs.append(y)
    return torch.stack(outputs, dim=1).to(dtype)


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


def reference_wkv6(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """The recurrence as written, token by token; differentiated by autograd."""
    dtype = r.dtype
    r, k, v, w, u = promote_dtypes(r, k, v, w, u, at_least=torch.float32)
    state = r.new_zeros(r.shape[0], *u.shape, u.shape[1])  # (batch, heads, size, size)
    decay = w.exp().expand_as(k)
    outputs = []
    for r_t, k_t, v_t, decay_t in zip(r.unbind(1), k.unbind(1), v.unbind(1), decay.unbind(1), strict=True):
        written = k_t.unsqueeze(-1) * v_t.unsqueeze(-2)  # (batch, heads, size, size)
        outputs.append((r_t.unsqueeze(-2) @ (state + u.unsqueeze(-1) * written)).squeeze(-2))
        state = decay_t.unsqueeze(-1) * state + written
    return torch.stack(outputs, dim=1).to(dtype)


def _fla() -> Callable[..., Tensor]:
    # Teams are short sequences: the library's sequential kernel starts faster than its chunked one.
    fused_recurrent_rwkv6 = import_module("fla.ops.rwkv6").fused_recurrent_rwkv6
    if getattr(signature(fused_recurrent_rwkv6).parameters.get("head_first"), "default", False) is True:
        raise ImportError(
            "this version of flash-linear-attention expects heads before tokens; "
            "`pip install -U flash-linear-attention`"
        )

    def run(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
        y: Tensor = fused_recurrent_rwkv6(r, k, v, w.expand_as(k).contiguous(), u, scale=1.0)[0]
        return y

    return run


def _reference(function: Callable[..., Tensor]) -> Backend:
    remark = "plain torch, token by token; on a CPU `pip install numba` makes it several times faster"
    return Backend("reference", lambda: function, no_obstacle, remark, is_slow=True)


WKV4 = Operation("wkv4", [numba_backend("wkv4_numba", "numba_wkv4"), _reference(reference_wkv4)])
WKV6 = Operation(
    "wkv6",
    [
        Backend(
            "fla",
            _fla,
            cuda_library_obstacle("fla", "flash-linear-attention"),
            "flash-linear-attention's fused CUDA kernels",
        ),
        numba_backend("wkv6_numba", "numba_wkv6"),
        _reference(reference_wkv6),
    ],
)
