"""The interface of a mixer, the only part in which MAT, MAM and MARWKV differ.

A mixer moves information along a sequence: the agents of a team, or steps in time. A *causal* mixer processes it in
windows of any length and carries a state from one to the next. However a sequence is cut, the results are the same:
everything else relies on that, and :func:`rllib_seqmarl.mixers.check.check_mixer` tests it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from rllib_seqmarl.ops.backends import AUTO, Operation

# A tree (dicts, lists and tuples) of tensors (B, ...); zeros are the state before the first position.
State = Any


def reset_state(state: State, resets: Tensor) -> State:
    """The state with zeros in the batch entries of the mask ``resets`` (B,)."""
    return tree_map(lambda leaf: leaf.masked_fill(resets.view(-1, *[1] * (leaf.dim() - 1)), 0), state)


@dataclass(frozen=True)
class MixerOptions:
    """Base class of a mixer's options besides width and heads; mixers with options subclass it.

    Fields need defaults; ``__post_init__`` raises a ValueError that names the key, the value and a remedy.
    """

    def check_counts(self, *keys: str) -> None:
        """Raise a ValueError unless these options are integers >= 1."""
        for key in keys:
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{key} must be an integer >= 1, not {value!r}")

    def check_sizes(self, embed_dim: int, n_head: int) -> None:
        """Raise such an error if a mixer with these options cannot have this width or number of heads."""


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
    """Mixes information among all positions of a sequence in one pass."""

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, State]:
        """Mix ``x`` (B, L, d) to the same shape; the state is None. ``context`` (B, L, d): the encoder's output."""


class CausalMixer(Mixer):
    """A mixer whose output at a position depends on this and earlier positions only."""

    @abstractmethod
    def forward(
        self, x: Tensor, context: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Mix a window.

        Args:
            x: (B, L, d).
            context: (B, L, d), the encoder's output at these positions, for cross mixers.
            state: The state before the window. None: zeros, and no state is returned, which saves computing it.
            resets: (B, L) bool; the state is set to zeros before these positions.

        Returns:
            The output (B, L, d), and the state after the window or None. The given state is unchanged.
        """

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state before the first position: zeros."""

    def step(self, x: Tensor, state: State, context: Tensor | None = None) -> tuple[Tensor, State]:
        """Mix one position: ``x``, ``context`` and the output are (B, d). A window of length one, unless overridden."""
        y, state = self(x.unsqueeze(1), None if context is None else context.unsqueeze(1), state)
        return y.squeeze(1), state


@dataclass(frozen=True)
class PostNormMixers:
    """Mixers for MAT's arrangement: self mixing, cross mixing onto the encoder's output, MLP; post-norm.

    ``options`` is the type of the user's options; ``operations`` are the operations of ``rllib_seqmarl.ops`` in use.
    ``state_grows``: whether the causal mixers' states grow with every position.
    """

    encoder: Callable[[MixerShape], Mixer]
    decoder: Callable[[MixerShape], CausalMixer]
    cross: Callable[[MixerShape], CausalMixer]
    options: type[MixerOptions] = MixerOptions
    operations: Sequence[Operation] = ()
    state_grows: bool = False


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

    def forward(
        self, x: Tensor, context: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        return x, state

    def initial_state(self, batch_size: int) -> State:
        return {}


class Bidirectional(Mixer):
    """A causal mixer run in both directions with the outputs summed, so that every agent depends on every other."""

    def __init__(self, mixer: CausalMixer) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(
        self, x: Tensor, context: Tensor | None = None, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        assert state is None and resets is None, "a mixer that runs in both directions has no state"
        return self.mixer(x)[0] + self.mixer(x.flip(1))[0].flip(1), None
