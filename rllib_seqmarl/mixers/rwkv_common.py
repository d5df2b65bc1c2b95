"""Parts shared by the RWKV mixers: initial values, channel mixing, matrix-state time mixing.

RWKV-4 is arXiv 2305.13048; RWKV-5 and 6 (Eagle and Finch) are arXiv 2404.05892. Initial values that depend on layer and
channel follow RWKV. Projections are orthogonal; those onto the residual stream start small, as everywhere in this
package, instead of at zero as in RWKV.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rllib_seqmarl.mixers.base import CausalMixer, MixerShape, State
from rllib_seqmarl.mixers.layers import ACTIVATED_GAIN, linear
from rllib_seqmarl.ops.backends import accumulation_dtype
from rllib_seqmarl.ops.token_shift import token_shift
from rllib_seqmarl.ops.wkv import wkv6

NORM_EPSILON = 64e-5  # equivalent to RWKV's division by 8 before a norm with 1e-5


# A decay of exp(-exp(10)) is zero in every floating-point type: larger rates would only overflow.
MAX_RATE = 10.0


def log_decay(rate: Tensor) -> Tensor:
    """The logarithm -exp(rate) of a decay, parametrised by its ``rate`` as in RWKV."""
    return -rate.clamp(max=MAX_RATE).exp()


class RWKVInit:
    """RWKV's initial values (dim,) for a layer; token shifts and decays depend on its depth."""

    def __init__(self, shape: MixerShape) -> None:
        self.dim = shape.embed_dim
        self.depth = shape.layer / max(1, shape.n_layer - 1)  # from 0 to 1
        self.depth_ratio = 1 - shape.layer / shape.n_layer  # from 1 to almost 0
        self.channels = torch.arange(self.dim) / max(1, self.dim - 1)  # from 0 to 1

    def mix(self, exponent: float = 1.0, bonus: float = 0.0) -> Tensor:
        """The share of its predecessor in each channel of a token, for :func:`token_shift`."""
        kept = (torch.arange(self.dim) / self.dim) ** (exponent * self.depth_ratio) + bonus * self.depth
        return 1 - kept

    def decay(self, slowest: float, span: float) -> Tensor:
        """Logarithms of the rates of decay."""
        return slowest + span * self.channels ** (0.7 + 1.3 * self.depth)

    def alternating(self, depth_ratio: float) -> Tensor:
        """-depth_ratio, 0, depth_ratio, repeating, so that neighbouring channels differ."""
        return ((torch.arange(self.dim) + 1) % 3 - 1) * depth_ratio


class SquaredReLU(torch.autograd.Function):
    """relu(x)^2 with half the memory of separate operations, for the widest tensor of the network."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        y = F.relu(x)
        return y.mul_(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return F.relu(x).mul_(grad).mul_(2)


class ChannelMix(CausalMixer):
    """sigmoid(receptance) * value(relu(key)^2), each of shifted tokens (arXiv 2305.13048, eq. 18)."""

    def __init__(self, shape: MixerShape, hidden: int) -> None:
        super().__init__()
        d, start = shape.embed_dim, RWKVInit(shape)
        self.backend = shape.backend
        self.mix = nn.Parameter(torch.stack([start.mix(), start.mix()]))  # for key and receptance
        self.key = linear(d, hidden, gain=ACTIVATED_GAIN, bias=False)
        self.receptance = linear(d, d, bias=False)
        self.value = linear(hidden, d, bias=False)

    def forward(
        self, x: Tensor, context: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        previous = None if state is None else state["previous"]
        shifted = token_shift(x, self.mix, initial_state=previous, resets=resets, backend=self.backend)
        for_key, for_receptance = shifted
        value = self.value(SquaredReLU.apply(self.key(for_key)))  # (B, L, d)
        y = torch.sigmoid(self.receptance(for_receptance)) * value
        return y, None if state is None else {"previous": x[:, -1]}

    def initial_state(self, batch_size: int) -> State:
        return {"previous": self.mix.new_zeros(batch_size, self.mix.shape[1])}


class NarrowChannelMix(ChannelMix):
    """RWKV-5's and 6's channel mixing, 3.5 times as wide as the tokens; wide ones are rounded to multiples of 32."""

    def __init__(self, shape: MixerShape) -> None:
        hidden = 7 * shape.embed_dim // 2
        super().__init__(shape, hidden // 32 * 32 if hidden >= 128 else hidden)


class HeadNorm(nn.Module):
    """A LayerNorm per head with weights per channel: a group norm in its fastest form for many tokens."""

    def __init__(self, heads: tuple[int, int]) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(heads)), nn.Parameter(torch.zeros(heads))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., h, d/h)."""
        if x.shape[-2] == 1:
            return F.layer_norm(x, x.shape[-2:], self.weight, self.bias, NORM_EPSILON)
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[-1:], eps=NORM_EPSILON), self.weight)


class MatrixTimeMix(CausalMixer):
    """Time mixing of RWKV-5 and 6 (arXiv 2404.05892, section 4): receptance, key, value and gate of shifted tokens, a
    matrix state per head, and output(norm(wkv) * silu(gate)). They differ in how tokens are shifted and decay."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        d, start = shape.embed_dim, RWKVInit(shape)
        self.backend, self.heads = shape.backend, (shape.n_head, d // shape.n_head)
        self.projections = linear(d, d, d, d, d, gain=1.0, bias=False)  # receptance, key, value, gate
        self.decay = nn.Parameter(start.decay(slowest=-6, span=5))
        bonus = start.depth * (1 - start.channels) + start.alternating(0.1)
        self.bonus = nn.Parameter(bonus.view(self.heads))
        self.norm = HeadNorm(self.heads)
        self.output = linear(d, d, bias=False)

    @abstractmethod
    def project(self, x: Tensor, previous: Tensor | None, resets: Tensor | None) -> tuple[Tensor, ...]:
        """Project tokens (B, L, d) to receptance, key, value, gate (B, L, d) and the decay's logarithm.

        ``previous`` (B, d) is the token before them, None for zeros. A decay that is constant in time is (d,).
        """

    def forward(
        self, x: Tensor, context: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        has_state = state is not None
        previous, sums = (state["previous"], state["sums"]) if has_state else (None, None)
        r, k, v, gate, w = self.project(x, previous, resets)
        r, k, v, w = (part.unflatten(-1, self.heads) for part in (r, k, v, w))  # (..., h, d/h)
        wkv = wkv6(r, k, v, w, self.bonus, has_state, initial_state=sums, resets=resets, backend=self.backend)
        wkv, sums = wkv if has_state else (wkv, None)  # (B, L, h, d/h)
        y = F.linear(self.norm(wkv).flatten(-2) * F.silu(gate), self.output.weight)
        return y, {"previous": x[:, -1], "sums": sums} if has_state else None

    def initial_state(self, batch_size: int) -> State:
        zeros = self.bonus.new_zeros
        sums = zeros(batch_size, *self.heads, self.heads[1], dtype=accumulation_dtype(self.bonus.dtype))
        return {"previous": zeros(batch_size, self.bonus.numel()), "sums": sums}
