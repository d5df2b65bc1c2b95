"""Multi-scale retention: Sable's layer (Mahjoub et al. 2024, arXiv 2410.01706, section 3), and mixers along agents.

Each head is a linear attention whose state decays at its own rate; heads are normalised, gated and projected. As
published by Sable, the gate is computed from the keys' side, queries and keys are neither scaled nor rotated (unlike in
RetNet; Sun et al. 2023, arXiv 2307.08621), and the norm has groups within each head. The state of a head is one matrix,
whatever the number of positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rllib_seqmarl.mixers.base import CausalMixer, Mixer, MixerOptions, MixerShape, State
from rllib_seqmarl.ops.backends import AUTO, accumulation_dtype
from rllib_seqmarl.ops.retention import retention

NORM_EPSILON = 1e-6
FASTEST_DECAY, SLOWEST_DECAY = 1 / 32, 1 / 512  # of the first and the last head per time step, before scaling
PUBLISHED_SCALING = 0.8


@dataclass(frozen=True)
class RetentionOptions(MixerOptions):
    """Options of a retention mixer along agents.

    Attributes:
        decay_scaling: The factor, from 0 to 1, of what each head keeps of its state from one agent to the next: 31/32
            in the first head to 511/512 in the last. Sable uses 0.8 over time. The encoder, in which all agents read
            each other, has no decay.

    Raises:
        ValueError: An option has an invalid value.
    """

    decay_scaling: float = 1.0

    def __post_init__(self) -> None:
        check_scaling(self.decay_scaling)

    def check_sizes(self, embed_dim: int, n_head: int) -> None:
        check_heads(embed_dim, n_head)


def check_scaling(decay_scaling: float) -> None:
    """Raise a ValueError unless ``decay_scaling`` is a number from 0 to 1."""
    is_number = isinstance(decay_scaling, int | float) and not isinstance(decay_scaling, bool)
    if not is_number or not 0 <= decay_scaling <= 1:
        raise ValueError(f"decay_scaling must be a number from 0 to 1, not {decay_scaling!r}")


def check_heads(embed_dim: int, n_head: int) -> None:
    """Raise a ValueError if the groups of the norm, `n_head` in each head, have no channels or a single one.

    A group of one channel is always zero after the norm: the output would not depend on the state.
    """
    if embed_dim % n_head**2 or embed_dim == n_head**2:
        raise ValueError(
            f"embed_dim={embed_dim} with n_head={n_head}: retention normalises each of {n_head} heads in {n_head} "
            f"groups of two or more channels; choose an embed_dim that is a multiple of n_head * n_head = {n_head**2} "
            f"and at least {2 * n_head**2}, or fewer heads"
        )


def head_decays(n_head: int, decay_scaling: float) -> Tensor:
    """What each head keeps of its state per time step (n_head,), in float64."""
    rates = torch.linspace(math.log(FASTEST_DECAY), math.log(SLOWEST_DECAY), n_head, dtype=torch.float64)
    return (1 - rates.exp()) * decay_scaling


def step_encoding(steps: Tensor, dim: int) -> Tensor:
    """The sinusoids (..., dim) of step counts (...), in float64: sine and cosine in turns, from fast to slow ones."""
    frequencies = 10000 ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=steps.device) / dim)
    angles = steps.unsqueeze(-1) * frequencies  # (..., dim / 2, rounded up)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :dim]


class GroupsNorm(nn.Module):
    """Norms of each head in groups of adjacent channels, as many as there are heads; all heads share the weights."""

    def __init__(self, n_head: int, size: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.groups = (n_head, size // n_head)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., heads, size)."""
        if self.groups[0] == 1:
            return F.layer_norm(x, self.groups[1:], self.weight, self.bias, NORM_EPSILON)
        groups = F.layer_norm(x.unflatten(-1, self.groups), self.groups[1:], eps=NORM_EPSILON)
        return torch.addcmul(self.bias, groups.flatten(-2), self.weight)


class MultiScaleRetention(nn.Module):
    """output(norm(retention(query, key, value)) * silu(gate(key))) on windows of time steps and agents.

    Windows, agents and resets are those of :func:`rllib_seqmarl.ops.retention.retention`; so is the state (B, h, d/h,
    d/h), which is zero before the first time step and not yet decayed for the next one.

    Args:
        embed_dim: The width d.
        n_head: The number of heads h.
        decay_scaling: The factor of the heads' decays, from 0 to 1.
        backend: Of the operation.

    Raises:
        ValueError: The norm cannot split the heads, or the factor is out of range.
    """

    decay: Tensor
    no_decay: Tensor

    def __init__(
        self, embed_dim: int, n_head: int = 1, decay_scaling: float = PUBLISHED_SCALING, backend: str = AUTO
    ) -> None:
        super().__init__()
        check_heads(embed_dim, n_head)
        check_scaling(decay_scaling)
        self.n_head, self.backend = n_head, backend
        layers = [nn.Linear(embed_dim, embed_dim, bias=False) for _ in range(5)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=1 / embed_dim)  # as published
        self.query, self.key, self.value, self.gate, self.output = layers
        self.norm = GroupsNorm(n_head, embed_dim // n_head)
        # In float64, so that powers are exact in each type of the operation.
        self.register_buffer("decay", head_decays(n_head, decay_scaling), persistent=False)
        self.register_buffer("no_decay", torch.ones(n_head, dtype=torch.float64), persistent=False)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        state: Tensor | None = None,
        resets: Tensor | None = None,
        *,
        n_agents: int = 1,
        causal: bool = True,
        decays: bool = True,
        encoding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute a window of L = T * n_agents tokens.

        Args:
            query: Tokens that read (B, L, d).
            key: Tokens that keys and the gate are computed from (B, L, d).
            value: Tokens that are written (B, L, d).
            state: The state before the window; None: zeros, and no state is returned.
            resets: (B, T) bool; the state is zero before these time steps.
            n_agents: Tokens per time step.
            causal: Whether a token reads only itself and its predecessors within its time step, or all tokens of it.
            decays: Whether the state decays with every time step. Without, the window may be further agents of the
                time step of ``state``, whose first ones have been given the decayed state, :meth:`decay_state`.
            encoding: What is added to all tokens (B, L, d), such as :func:`step_encoding`, or None.

        Returns:
            The output (B, L, d), and the state after the window or None.
        """
        if encoding is not None:
            query, key, value = query + encoding, key + encoding, value + encoding
        tokens = ((self.query, query), (self.key, key), (self.value, value))
        q, k, v = (layer(x).unflatten(-1, (self.n_head, -1)) for layer, x in tokens)  # (B, L, h, d/h)
        has_state = state is not None
        y = retention(
            q, k, v, self.decay if decays else self.no_decay, has_state, n_agents=n_agents, causal=causal,
            initial_state=state, resets=resets, backend=self.backend,
        )  # fmt: skip
        y, state = y if has_state else (y, None)
        return self.output(self.norm(y).flatten(-2) * F.silu(self.gate(key))), state

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros (B, h, d/h, d/h), in float32 or wider."""
        weight, size = self.norm.weight, len(self.norm.weight)
        return weight.new_zeros(batch_size, self.n_head, size, size, dtype=accumulation_dtype(weight.dtype))

    def decay_state(self, state: Tensor) -> Tensor:
        """The state at the beginning of a time step whose agents follow in windows without decay."""
        return state * self.decay.to(state.dtype).view(-1, 1, 1)


class TeamRetention(Mixer):
    """Every agent reads what all agents write, as in one time step: without decay, whatever the order of agents."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        self.layer = MultiScaleRetention(shape.embed_dim, shape.n_head, backend=shape.backend)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, State]:
        return self.layer(x, x, x, n_agents=x.shape[1], causal=False)


class CausalRetention(CausalMixer):
    """A position reads what itself and its predecessors have written; each position decays the state."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        options: RetentionOptions = shape.options or RetentionOptions()
        self.layer = MultiScaleRetention(shape.embed_dim, shape.n_head, options.decay_scaling, shape.backend)

    def forward(
        self, x: Tensor, context: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        return self.layer(self.source(x, context), x, x, state, resets)

    def initial_state(self, batch_size: int) -> State:
        return self.layer.initial_state(batch_size)

    def source(self, x: Tensor, context: Tensor | None) -> Tensor:
        """What queries are computed from."""
        return x


class CrossRetention(CausalRetention):
    """Actions are written into the state and gate the output; the encoder's output for an agent reads from it."""

    def source(self, x: Tensor, context: Tensor | None) -> Tensor:
        assert context is not None, "cross retention needs the encoder's output as context"
        return context
