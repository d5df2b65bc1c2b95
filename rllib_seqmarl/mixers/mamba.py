"""Mamba along the agent axis: the mixers of Multi-Agent Mamba (arXiv 2410.19382, section 3).

The core is Mamba-1 (Gu and Dao 2023, arXiv 2312.00752, figure 3): projection, short causal convolution, selective
scan, gate, projection. Each mixer wraps it as LN(x + core(RMSNorm(x))); without the norms, the product in the
bidirectional mixer overflows. The state holds the last inputs of the convolution and the state of the scan; its size
does not depend on the number of positions.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rllib_seqmarl.mixers.base import CausalMixer, Mixer, MixerOptions, MixerShape, State
from rllib_seqmarl.mixers.layers import linear
from rllib_seqmarl.ops.backends import accumulation_dtype
from rllib_seqmarl.ops.causal_conv1d import causal_conv1d
from rllib_seqmarl.ops.rms_norm import RMSNorm
from rllib_seqmarl.ops.selective_scan import selective_scan

DELTA_RANGE = 1e-3, 1e-1  # range of the step sizes at initialisation


@dataclass(frozen=True)
class MambaOptions(MixerOptions):
    """Options of a Mamba mixer.

    Attributes:
        d_state: States per channel of the scan; the MAM paper searched 1 to 32.
        d_conv: Width of the convolution over the agents.
        expand: Channels of the core per channel of the token.
        dt_rank: Rank of the projection to step sizes; the MAM paper searched 1 to 128. "auto": embed_dim / 16, rounded
            up, as in Mamba.
        bidirectional: How the encoder combines both directions: "product" multiplies f = core(x) by the core's output
            on the reversed f (as published), "sum" adds the core's outputs on x and on the reversed x.

    Raises:
        ValueError: An option has an invalid value.
    """

    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    dt_rank: int | Literal["auto"] = "auto"
    bidirectional: Literal["product", "sum"] = "product"

    def __post_init__(self) -> None:
        for key in ("d_state", "d_conv", "expand", "dt_rank"):
            value, also = getattr(self, key), " or 'auto'" if key == "dt_rank" else ""
            if also and value == "auto":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{key} must be an integer >= 1{also}, not {value!r}")
        if self.bidirectional not in ("product", "sum"):
            raise ValueError(f"bidirectional must be 'product' or 'sum', not {self.bidirectional!r}")


class MambaCore(nn.Module):
    """Mamba-1 on (B, L, d). With ``crossed``, C, which reads the states, is an argument instead of a projection."""

    def __init__(self, shape: MixerShape, crossed: bool = False) -> None:
        super().__init__()
        options: MambaOptions = shape.options or MambaOptions()
        d, inner = shape.embed_dim, options.expand * shape.embed_dim
        self.backend = shape.backend
        dt_rank = math.ceil(d / 16) if options.dt_rank == "auto" else options.dt_rank
        n_read = 0 if crossed else options.d_state
        self.sizes = [dt_rank, options.d_state, n_read]
        self.in_proj = linear(d, inner, inner, gain=1.0, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(inner, options.d_conv).uniform_(-1, 1) / math.sqrt(options.d_conv))
        self.conv_bias = nn.Parameter(torch.zeros(inner))
        self.x_proj = linear(inner, *(size for size in self.sizes if size), gain=1.0, bias=False)
        self.dt_proj = nn.Linear(dt_rank, inner)
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        with torch.no_grad():
            low, high = (math.log(delta) for delta in DELTA_RANGE)
            delta = torch.empty(inner).uniform_(low, high).exp()
            self.dt_proj.bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # the inverse of softplus
        self.A_log = nn.Parameter(torch.arange(1.0, options.d_state + 1).log().repeat(inner, 1))  # S4D-real
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = linear(inner, d, gain=1.0, bias=False)

    def forward(
        self, x: Tensor, C: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Map (B, L, d) to (B, L, d); C (B, L, d_state) if crossed. State and resets as in :class:`CausalMixer`."""
        has_state = state is not None
        inputs, scanned = (state["inputs"], state["scan"]) if has_state else (None, None)
        # Two products instead of one split in two: the scan needs adjacent channels in each part.
        u, z = (F.linear(x, weight) for weight in self.in_proj.weight.chunk(2))  # each (B, L, c)
        convolved = causal_conv1d(
            u.mT, self.conv_weight, self.conv_bias, "silu", has_state, initial_state=inputs, resets=resets,
            backend=self.backend,
        )  # fmt: skip
        convolved, inputs = convolved if has_state else (convolved, None)
        u = convolved.mT
        dt, B, own_C = self.x_proj(u).split(self.sizes, dim=-1)
        y = selective_scan(
            u.mT, dt.mT, -self.A_log.exp(), B.mT, (own_C if C is None else C).mT, self.D, z.mT, self.dt_proj.bias,
            True, has_state, initial_state=scanned, resets=resets, delta_proj=self.dt_proj.weight,
            backend=self.backend,
        )  # fmt: skip
        y, scanned = y if has_state else (y, None)
        return self.out_proj(y.mT), {"inputs": inputs, "scan": scanned} if has_state else None

    def initial_state(self, batch_size: int) -> State:
        """Zeros: the last inputs (B, c, d_conv - 1) and the scan's state (B, c, d_state); c = expand * d."""
        (inner, d_conv), d_state, zeros = self.conv_weight.shape, self.sizes[1], self.D.new_zeros
        scan = zeros(batch_size, inner, d_state, dtype=accumulation_dtype(self.D.dtype))
        return {"inputs": zeros(batch_size, inner, d_conv - 1), "scan": scan}


class Mamba(CausalMixer):
    """Causal: a position reads the state written by itself and its predecessors."""

    def __init__(self, shape: MixerShape, crossed: bool = False) -> None:
        super().__init__()
        self.core = MambaCore(shape, crossed)
        self.norm = RMSNorm(shape.embed_dim, 1e-6, shape.backend)
        self.outer_norm = nn.LayerNorm(shape.embed_dim)

    def forward(
        self, x: Tensor, context: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        y, state = self.core(self.norm(x), self.read_weights(context), state, resets)
        return self.outer_norm(x + y), state

    def initial_state(self, batch_size: int) -> State:
        return self.core.initial_state(batch_size)

    def read_weights(self, context: Tensor | None) -> Tensor | None:
        """C (B, L, d_state), if it is computed from the context."""
        return None


class CrossMamba(Mamba):
    """Actions are written into the state, and the encoder's output for an agent determines what is read from it."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__(shape, crossed=True)
        self.context_norm = RMSNorm(shape.embed_dim, 1e-6, shape.backend)
        self.C_proj = linear(shape.embed_dim, self.core.sizes[1], gain=1.0, bias=False)

    def read_weights(self, context: Tensor | None) -> Tensor | None:
        assert context is not None, "cross mamba needs the encoder's output as context"
        return self.C_proj(self.context_norm(context))


class BidirectionalMamba(Mixer):
    """One core run in both directions, so that every agent depends on the whole team."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        self.core = MambaCore(shape)
        self.is_product = (shape.options or MambaOptions()).bidirectional == "product"
        self.norm = RMSNorm(shape.embed_dim, 1e-6, shape.backend)
        self.outer_norm = nn.LayerNorm(shape.embed_dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, State]:
        normed = self.norm(x)
        forth, _ = self.core(normed)  # (B, n, d)
        back = self.core((forth if self.is_product else normed).flip(1))[0].flip(1)
        return self.outer_norm(x + (forth * back if self.is_product else forth + back)), None
