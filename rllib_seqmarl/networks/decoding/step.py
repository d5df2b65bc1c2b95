"""The steps of decoding: a token in, a token out, a kernel or plain torch in between."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from rllib_seqmarl.mixers import CausalMixer
from rllib_seqmarl.mixers.base import State
from rllib_seqmarl.ops.numba_support import over_batch

# Number of multiply-adds of a matrix product that cost as much as one element of other work.
PRODUCTS_PER_ELEMENT = 32


class Step(Protocol):
    """A causal mixer, with the state of a batch of sequences. Tokens are contiguous arrays (batch, width)."""

    def start(self, batch_size: int, length: int) -> None:
        """Set the state to that before the first token of sequences of at most this length."""

    def load(self, state: State) -> None:
        """Continue from a state of the mixer, which stays as it is."""

    @property
    def state(self) -> State:
        """After :meth:`load`: the state now, as one of the mixer."""

    def __call__(self, x: Any, context: Any = None) -> Any:
        """The output for the next token ``x`` and its context; the state changes in place."""


class CompiledStep:
    """A module with its weights packed for a kernel.

    Args:
        like: An array with the dtype of the numbers.
        width: Width of a token.
        products: Multiplications in matrix products per token; determines the number of threads.
        states: Shapes of the states of a sequence, which are zeros before the first token.
    """

    def __init__(self, like: Any, width: int, products: int, *states: tuple[int, ...]) -> None:
        self.dtype, self.width, self.products, self.state_shapes = like.dtype, width, products, states

    def start(self, batch_size: int, length: int) -> None:
        """As in :class:`Step`."""
        self.states = [np.zeros((batch_size, *shape), self.dtype) for shape in self.state_shapes]

    def load(self, state: State) -> None:
        """As in :class:`Step`."""
        leaves, self.structure = tree_flatten(state)
        arrays = self.arrays(*(leaf.numpy() for leaf in leaves))
        self.states = [np.array(x, self.dtype, order="C") for x in arrays]

    @property
    def state(self) -> State:
        """As in :class:`Step`."""
        leaves = [torch.from_numpy(np.ascontiguousarray(x)) for x in self.leaves(*self.states)]
        return tree_unflatten(leaves, self.structure)

    def arrays(self, *leaves: Any) -> Sequence[Any]:
        """The kernel's states of those of the mixer."""
        return leaves

    def leaves(self, *arrays: Any) -> Sequence[Any]:
        """The inverse of :meth:`arrays`."""
        return arrays

    def run(self, kernel: Any, x: Any, *args: Any) -> Any:
        """Run ``kernel(begin, end, x, *args, output)`` and return its output, an array (batch, width)."""
        y = np.empty((len(x), self.width), self.dtype)
        over_batch(kernel, len(x), len(x) * self.products // PRODUCTS_PER_ELEMENT, x, *args, y)
        return y


class TorchStep:
    """Runs a causal mixer by its plain torch step among compiled ones."""

    def __init__(self, mixer: CausalMixer) -> None:
        self.mixer = mixer

    def start(self, batch_size: int, length: int) -> None:
        self.state = self.mixer.initial_state(batch_size)

    def load(self, state: State) -> None:
        self.state = state

    def __call__(self, x: Any, context: Any = None) -> Any:
        context = None if context is None else torch.from_numpy(context)
        y, self.state = self.mixer.step(torch.from_numpy(x), self.state, context)
        return as_array(y, x)


def as_array(x: Tensor, like: Any) -> Any:
    """Convert ``x`` to a contiguous array with the dtype of ``like``, and check its shape: kernels check no bounds.

    Raises:
        ValueError: ``x`` has another shape than ``like``.
    """
    if tuple(x.shape) != like.shape:
        raise ValueError(f"a step returned a tensor of shape {tuple(x.shape)} instead of {like.shape}")
    return np.ascontiguousarray(x.detach().numpy(), like.dtype)


def step_of(module: nn.Module) -> Step:
    """The compiled step of a causal mixer or block, or its plain torch step if the table has none."""
    from rllib_seqmarl.networks.decoding.fast_decoder import STEPS  # deferred: some of its steps consist of others

    return STEPS.get(type(module), TorchStep)(module)
