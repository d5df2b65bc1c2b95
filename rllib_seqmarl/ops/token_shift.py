"""RWKV's token shift: every channel of a token moves some way towards its predecessor (arXiv 2305.13048, eq. 11 to 13).

Before the first token stand zeros. RWKV makes several inputs of a token, each with its own ways, all at once here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rllib_seqmarl.ops.backends import AUTO, Backend, Operation, check_shapes, in_one_dtype, nothing_in_the_way
from rllib_seqmarl.ops.numba_support import numba_backend


def token_shift(x: Tensor, mix: Tensor, own: Tensor | None = None, *, backend: str = AUTO) -> tuple[Tensor, ...]:
    """Makes several inputs of x: x_t + (x_{t-1} - x_t) (mix + own_t).

    Args:
        x: (batch, length, dim).
        mix: How far towards the predecessor, (inputs, dim).
        own: What each token adds to that, (inputs, batch, length, dim), as in RWKV-6.
        backend: "auto", or a name of ``TOKEN_SHIFT.available(device)``.

    Returns:
        As many inputs as ``mix`` has rows, each (batch, length, dim).

    Raises:
        ValueError: Shapes do not fit, or the backend is unknown or cannot run here.
    """
    check_shapes("x", x, mix=(mix, (len(mix), x.shape[2])), own=(own, (len(mix), *x.shape)))
    x, mix, own = in_one_dtype(x, mix, own)
    outputs: tuple[Tensor, ...] = TOKEN_SHIFT.choose(backend, x)(x, mix, own)
    return outputs


def reference_token_shift(x: Tensor, mix: Tensor, own: Tensor | None) -> tuple[Tensor, ...]:
    """The shift under autograd."""
    towards = F.pad(x, (0, 0, 1, -1)) - x  # (batch, length, dim)
    mix = mix[:, None, None] if own is None else mix[:, None, None] + own
    return torch.addcmul(x, towards, mix).unbind(0)


TOKEN_SHIFT = Operation(
    "token_shift",
    [
        numba_backend("token_shift_numba", "numba_token_shift"),
        Backend("reference", lambda: reference_token_shift, nothing_in_the_way, "plain torch"),
    ],
    elsewhere=("fla",),
)
