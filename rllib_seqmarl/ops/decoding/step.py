"""The base of compiled steps: a token in, a token out, a kernel in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rllib_seqmarl.ops.backends import without_gradients
from rllib_seqmarl.ops.numba_support import over_batch

# So many multiplications with additions of a matrix product take as long as one element of other work.
PRODUCTS_PER_ELEMENT = 32


def tokens_of(x: Any, like: Any, shape: tuple[int, ...]) -> Any:
    """``x``, a tensor or an array, as a contiguous array of the type of ``like``; kernels do not look where they read,
    so shapes are checked.

    Raises:
        ValueError: ``x`` has another shape.
        RuntimeError: ``x`` is part of a graph for gradients, which would end here silently.
    """
    if tuple(x.shape) != shape:
        raise ValueError(f"this state goes on with tokens of shape {tuple(shape)}, not {tuple(x.shape)}")
    return np.ascontiguousarray(without_gradients(x).numpy() if isinstance(x, Tensor) else x, like.dtype)


class CompiledStep:
    """A part of the network, packed for going token by token, with the state of a batch of sequences.

    Called with a token, and perhaps with a second input, it returns an output of the same kind: a tensor or an array.
    Shapes of tensors are checked; arrays are contiguous and come from other steps.

    Args:
        batch_size: Sequences that go side by side.
        like: An array of the type of the numbers.
        width: Of a token.
        products: Multiplications of matrix products per token, from which the number of threads follows.
        context_width: Of the second input, where it is not that of a token.
    """

    def __init__(self, batch_size: int, like: Any, width: int, products: int, context_width: int | None = None) -> None:
        self.like, self.shape = like, (batch_size, width)
        self.context_shape = batch_size, width if context_width is None else context_width
        self.work = batch_size * products // PRODUCTS_PER_ELEMENT

    def __call__(self, x: Any, context: Any = None) -> Any:
        """The output (batch, width) for the next token ``x`` (batch, width)."""
        if not isinstance(x, Tensor):
            return self.advance(x, context)
        context = None if context is None else self.context(context)
        return torch.from_numpy(self.advance(self.tokens(x), context))

    def advance(self, x: Any, context: Any = None) -> Any:
        """The same with arrays."""
        raise NotImplementedError

    def run(self, kernel: Any, *args: Any) -> Any:
        """A token's output (batch, width), an array which ``kernel(begin, end, *args, output)`` fills."""
        y = np.empty(self.shape, self.like.dtype)
        over_batch(kernel, self.shape[0], self.work, *args, y)
        return y

    def tokens(self, x: Any) -> Any:
        """``x`` (batch, width) as an array."""
        return tokens_of(x, self.like, self.shape)

    def context(self, context: Any) -> Any:
        """The second input as an array."""
        return tokens_of(context, self.like, self.context_shape)


class TorchStep(CompiledStep):
    """Steps of a mixer in plain torch among compiled ones: of one that has no others."""

    def __init__(self, mixer: Any, batch_size: int, like: Any, width: int, state: Any) -> None:
        super().__init__(batch_size, like, width, 0)
        self.mixer, self.state = mixer, state

    def advance(self, x: Any, context: Any = None) -> Any:
        y, self.state = self.mixer.step(torch.from_numpy(x), self.state, context)
        return self.tokens(y)
