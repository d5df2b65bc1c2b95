"""What a mixer is: the one part in which MAT, MAM and MARWKV differ.

A mixer moves information along the agent axis. A *causal* mixer also runs one agent at a time, and both ways
give the same numbers: ``mixer(x, context)[:, t]`` equals the t-th ``step``. Everything else leans on that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class MixerShape:
    """What a mixer is told when it is built: its width, its heads and where in the stack it stands."""

    embed_dim: int
    n_head: int = 1
    layer: int = 0
    n_layer: int = 1


class Mixer(nn.Module, ABC):
    """Mixes information among the agents, the whole team at once."""

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Mix ``x`` (B, n, d); same shape out. ``context`` (B, n, d) is the encoder's output."""


class CausalMixer(Mixer):
    """A mixer whose output for agent t depends on agents 0..t only, so it can also decode agent by agent."""

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """The state before the first agent."""

    @abstractmethod
    def step(self, x: Tensor, state: Any, context: Any = None) -> tuple[Tensor, Any]:
        """Mix the next agent's ``x`` (B, d) into ``state``: its output (B, d) and the state after it.

        ``context`` is this agent's entry of :meth:`split_context`. The given state is consumed: it may be
        updated in place, so only the returned one is valid afterwards.
        """

    def split_context(self, context: Tensor) -> Sequence[Any]:
        """Cut ``context`` (B, n, d) into one entry per agent for :meth:`step`.

        The encoder's output is known before decoding starts, so a mixer may override this to compute for all
        agents at once what depends on it alone.
        """
        return context.unbind(1)  # n times (B, d)


@dataclass(frozen=True)
class Crossed:
    """Mixers for MAT's arrangement: self mixing, cross mixing onto the encoder's output, MLP; post-norm."""

    encoder: Callable[[MixerShape], Mixer]
    decoder: Callable[[MixerShape], CausalMixer]
    cross: Callable[[MixerShape], CausalMixer]


@dataclass(frozen=True)
class Added:
    """Mixers for RWKV's arrangement: the encoder's output is added to the action embedding, then time
    mixing and channel mixing follow; pre-norm. One causal pair serves encoder and decoder."""

    time: Callable[[MixerShape], CausalMixer]
    channel: Callable[[MixerShape], CausalMixer]
