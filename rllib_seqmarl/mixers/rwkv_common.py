"""Parts shared by the RWKV mixers: initial values, shifted projections, channel mixing, matrix-state time mixing.

RWKV-4 is arXiv 2305.13048; RWKV-5 and 6 (Eagle and Finch) are arXiv 2404.05892. Initial values that depend on layer and
channel follow RWKV. Projections are orthogonal; those onto the residual stream start small, as everywhere in this
package, instead of at zero as in RWKV.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rllib_seqmarl.mixers.base import CausalMixer, MixerShape
from rllib_seqmarl.mixers.layers import ACTIVATED_GAIN, linear
from rllib_seqmarl.ops.backends import accumulation_dtype
from rllib_seqmarl.ops.decoding import is_compiled
from rllib_seqmarl.ops.token_shift import token_shift
from rllib_seqmarl.ops.wkv import wkv6, wkv6_step

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


class ShiftedProjections:
    """Projections of shifted tokens for decoding: W (x_t + (x_{t-1} - x_t) m) = W (1 - m) x_t + W m x_{t-1}.

    One matrix product per token computes its own share and its contribution to the next token.
    """

    def __init__(self, weights: list[Tensor], mix: Tensor, batch_size: int) -> None:
        """``weights`` (out, dim), one per row of ``mix`` (inputs, dim)."""
        shares = [w * (1 - m) for w, m in zip(weights, mix, strict=True)]
        self.weight = torch.cat([*shares, *(w * m for w, m in zip(weights, mix, strict=True))])  # (2 total, dim)
        self.sizes = [len(w) for w in weights]
        self.carried = mix.new_zeros(batch_size, sum(self.sizes))

    def step(self, x: Tensor) -> tuple[Tensor, ...]:
        """The projections (B, out) of the next token ``x`` (B, dim)."""
        own, carried = F.linear(x, self.weight).chunk(2, dim=-1)
        own, self.carried = own + self.carried, carried
        return own.split(self.sizes, dim=-1)


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

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for_key, for_receptance = token_shift(x, self.mix, backend=self.backend)
        value = self.value(SquaredReLU.apply(self.key(for_key)))  # (B, n, d)
        return torch.sigmoid(self.receptance(for_receptance)) * value

    def initial_state(self, batch_size: int) -> Any:
        if is_compiled(self.backend, self.mix):
            from rllib_seqmarl.ops.decoding.rwkv import ChannelMixStep  # deferred: numba is optional

            return ChannelMixStep(batch_size, self.mix, self.key, self.receptance, self.value)
        weights = [self.key.weight, self.receptance.weight]
        return ShiftedProjections(weights, self.mix, batch_size), self.value.weight

    def step(self, x: Tensor, state: Any, context: Any = None) -> tuple[Tensor, Any]:
        if not isinstance(state, tuple):  # compiled
            return state(x), state
        projections, value_weight = state
        key, receptance = projections.step(x)
        return torch.sigmoid(receptance) * F.linear(F.relu(key).square(), value_weight), state


class NarrowChannelMix(ChannelMix):
    """RWKV-5's and 6's channel mixing, 3.5 times as wide as the tokens; wide ones are rounded to multiples of 32."""

    def __init__(self, shape: MixerShape) -> None:
        hidden = 7 * shape.embed_dim // 2
        super().__init__(shape, hidden // 32 * 32 if hidden >= 128 else hidden)


@dataclass(slots=True)
class Projected:
    """The projections of tokens for time mixing with a matrix state; each (..., d)."""

    decay: Tensor  # its logarithm; (d,) if it is constant in time
    receptance: Tensor
    key: Tensor
    value: Tensor
    gate: Tensor

    def by_head(self, heads: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Receptance, key, value and decay (..., h, d/h)."""
        r, k, v, w = (x.unflatten(-1, heads) for x in (self.receptance, self.key, self.value, self.decay))
        return r, k, v, w


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
    def project(self, x: Tensor) -> Projected:
        """Project tokens (B, n, d)."""

    @abstractmethod
    def compiled_step(self, *common: Any) -> Any:
        """A compiled step of this mixer; ``common`` are the shared arguments of ``ops.decoding.rwkv_matrix``."""

    @abstractmethod
    def initial_projections(self, batch_size: int) -> Any:
        """The state of :meth:`project_step` between tokens, and its weights."""

    @abstractmethod
    def project_step(self, x: Tensor, state: Any) -> Projected:
        """Project the next token (B, d); ``state`` is updated in place."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        projected = self.project(x)
        wkv = wkv6(*projected.by_head(self.heads), self.bonus, backend=self.backend)  # (B, n, h, d/h)
        return self._output(wkv, projected.gate)

    def initial_state(self, batch_size: int) -> Any:
        if is_compiled(self.backend, self.bonus):
            norm = self.norm
            return self.compiled_step(batch_size, self.bonus, norm.weight, norm.bias, NORM_EPSILON, self.output)
        size = self.heads[1]
        dtype = accumulation_dtype(self.bonus.dtype)
        states = self.bonus.new_zeros(batch_size, *self.heads, size, dtype=dtype)
        return self.initial_projections(batch_size), states, self.bonus.detach()

    def step(self, x: Tensor, state: Any, context: Any = None) -> tuple[Tensor, Any]:
        if not isinstance(state, tuple):  # compiled
            return state(x), state
        projections, states, bonus = state
        projected = self.project_step(x, projections)
        wkv = wkv6_step(*projected.by_head(self.heads), bonus, states)  # (B, h, d/h)
        return self._output(wkv, projected.gate), state

    def _output(self, wkv: Tensor, gate: Tensor) -> Tensor:
        """The output from the WKV (..., h, d/h) and the gate (..., d)."""
        return F.linear(self.norm(wkv).flatten(-2) * F.silu(gate), self.output.weight)
