"""RWKV's token shift: interpolates each channel of a token towards its predecessor (arXiv 2305.13048, eq. 11 to 13).

The first token's predecessor is zero. RWKV derives several inputs from a token, each with its own weights; they are
computed together here.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from rllib_seqmarl.ops.backends import AUTO, Operation, check_shapes, promote_dtypes, reference_backend
from rllib_seqmarl.ops.numba_support import numba_backend


def token_shift(
    x: Tensor,
    mix: Tensor,
    own: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    resets: Tensor | None = None,
    backend: str = AUTO,
) -> tuple[Tensor, ...]:
    """Derive several inputs from x: x_t + (x_{t-1} - x_t) (mix + own_t).

    The keywords of all operations are described in :mod:`rllib_seqmarl.ops`.

    Args:
        x: (batch, length, dim).
        mix: Weights of the predecessor, (inputs, dim).
        own: Each token's addition to these weights, (inputs, batch, length, dim), as in RWKV-6.
        initial_state: The first token's predecessor (batch, dim), that is x[:, -1] of the window before.

    Returns:
        One input per row of ``mix``, each (batch, length, dim).
    """
    batch_size, length, dim = x.shape
    check_shapes(
        "x", x, mix=(mix, (len(mix), dim)), own=(own, (len(mix), *x.shape)), resets=(resets, (batch_size, length)),
        initial_state=(initial_state, (batch_size, dim)),
    )  # fmt: skip
    x, mix, own = promote_dtypes(x, mix, own)
    if initial_state is not None:
        x = torch.cat([initial_state.to(x.dtype).unsqueeze(1), x], dim=1)  # (batch, 1 + length, dim)
    outputs: tuple[Tensor, ...] = TOKEN_SHIFT.choose(backend, x)(x, mix, own, resets, initial_state is not None)
    return outputs


def reference_token_shift(
    x: Tensor, mix: Tensor, own: Tensor | None, resets: Tensor | None, has_state: bool
) -> tuple[Tensor, ...]:
    """The shift in plain torch, differentiated by autograd."""
    before, x = (x[:, :-1], x[:, 1:]) if has_state else (F.pad(x, (0, 0, 1, -1)), x)  # (batch, length, dim)
    if resets is not None:
        before = before.masked_fill(resets.unsqueeze(-1), 0)
    difference = before - x
    mix = mix[:, None, None] if own is None else mix[:, None, None] + own
    return torch.addcmul(x, difference, mix).unbind(0)


TOKEN_SHIFT = Operation(
    "token_shift",
    [
        numba_backend("rllib_seqmarl.ops.token_shift_numba", "numba_token_shift"),
        reference_backend(reference_token_shift, "plain torch"),
    ],
    auto_aliases=("fla",),
)
