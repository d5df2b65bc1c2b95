"""The interface of a mixer, the only part in which MAT, MAM and MARWKV differ.

A mixer moves information along the agent axis. A *causal* mixer also runs one agent at a time, and both forms
give the same numbers: ``mixer(x, context)[:, t]`` equals the t-th ``step``. Everything else relies on that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rllib_seqmarl.ops.backends import AUTO, Operation


@dataclass(frozen=True)
class MixerOptions:
    """Base class of a mixer's options besides width and heads; mixers with options subclass it.

    Fields need defaults; ``__post_init__`` raises a ValueError that names the key, the value and a remedy.
    """


@dataclass(frozen=True)
class MixerShape:
    """The constructor arguments of a mixer.

    Attributes:
        embed_dim: Its width d.
        n_head: Number of heads, for mixers with heads.
        layer: Index of its layer in the stack, from 0.
        n_layer: Number of layers in the stack.
        options: The user's options, of the type that the mixer's registry entry declares.
        backend: Name of the implementation of its operations (see ``rllib_seqmarl.ops``), or "auto".
    """

    embed_dim: int
    n_head: int = 1
    layer: int = 0
    n_layer: int = 1
    options: Any = None
    backend: str = AUTO


class Mixer(nn.Module, ABC):
    """Mixes information among the agents of the whole team in one pass."""

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Mix ``x`` (B, n, d) to the same shape. ``context`` (B, n, d) is the encoder's output."""


class CausalMixer(Mixer):
    """A mixer whose output for agent t depends on agents 0..t only, so it can also decode agent by agent."""

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """The state before the first agent."""

    @abstractmethod
    def step(self, x: Tensor, state: Any, context: Any = None) -> tuple[Tensor, Any]:
        """Mix the next agent's ``x`` (B, d) into ``state``; return its output (B, d) and the new state.

        ``context`` is this agent's entry of :meth:`split_context`. The given state is consumed: it may be
        updated in place, so only the returned one is valid afterwards. Steps are for choosing actions: a step that
        does not propagate gradients raises a RuntimeError if ``x`` requires them.
        """

    def split_context(self, context: Tensor) -> Sequence[Any]:
        """Split ``context`` (B, n, d) into one entry per agent for :meth:`step`.

        The encoder's output is available before decoding starts, so a mixer may override this to compute
        everything that depends only on it for all agents together.
        """
        return context.unbind(1)  # n entries (B, d)


@dataclass(frozen=True)
class PostNormMixers:
    """Mixers for MAT's arrangement: self mixing, cross mixing onto the encoder's output, MLP; post-norm.

    ``options`` is the type of the user's options; ``operations`` are the operations of ``rllib_seqmarl.ops`` in use.
    """

    encoder: Callable[[MixerShape], Mixer]
    decoder: Callable[[MixerShape], CausalMixer]
    cross: Callable[[MixerShape], CausalMixer]
    options: type[MixerOptions] = MixerOptions
    operations: Sequence[Operation] = ()


@dataclass(frozen=True)
class PreNormMixers:
    """Mixers for RWKV's arrangement: the encoder's output is added to the action embedding, then time
    mixing and channel mixing follow; pre-norm. One causal pair serves encoder and decoder.

    ``options`` and ``operations`` as in :class:`PostNormMixers`.
    """

    time: Callable[[MixerShape], CausalMixer]
    channel: Callable[[MixerShape], CausalMixer]
    options: type[MixerOptions] = MixerOptions
    operations: Sequence[Operation] = ()


class Addition(CausalMixer):
    """No mixing: a cross mixer that reduces to encoder output + x, for ablations of cross mixing."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return x

    def initial_state(self, batch_size: int) -> None:
        return None

    def step(self, x: Tensor, state: None, context: Any = None) -> tuple[Tensor, None]:
        return x, None


class Bidirectional(Mixer):
    """A causal mixer run in both directions with the outputs summed, so that every agent depends on every other."""

    def __init__(self, mixer: Mixer) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.mixer(x) + self.mixer(x.flip(1)).flip(1)
