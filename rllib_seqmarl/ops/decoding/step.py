"""The base of compiled steps: a token in, a token out, a kernel in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rllib_seqmarl.ops.backends import without_gradients
from rllib_seqmarl.ops.numba_support import over_batch

# Number of multiply-adds of a matrix product that cost as much as one element of other work.
PRODUCTS_PER_ELEMENT = 32


def as_token_array(x: Any, like: Any, shape: tuple[int, ...]) -> Any:
    """Convert ``x``, a tensor or an array, to a contiguous array with the dtype of ``like``, and check its shape, since
    kernels do not check bounds.

    Raises:
        ValueError: ``x`` has the wrong shape.
        RuntimeError: ``x`` requires gradients, which would be lost silently.
    """
    if tuple(x.shape) != shape:
        raise ValueError(f"this state expects tokens of shape {tuple(shape)}, not {tuple(x.shape)}")
    return np.ascontiguousarray(without_gradients(x).numpy() if isinstance(x, Tensor) else x, like.dtype)


class CompiledStep:
    """A part of the network, packed for decoding token by token, with the state of a batch of sequences.

    Called with a token and optionally a context, it returns an output of the same kind: a tensor or an array.
    Shapes of tensors are checked; arrays must be contiguous, as those from other steps are.

    Args:
        batch_size: Number of sequences.
        like: An array with the dtype of the numbers.
        width: Width of a token.
        products: Multiplications in matrix products per token; determines the number of threads.
        context_width: Width of the context, if it differs from that of a token.
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
        """Like :meth:`__call__`, on arrays."""
        raise NotImplementedError

    def run(self, kernel: Any, *args: Any) -> Any:
        """Run ``kernel(begin, end, *args, output)`` and return its output, an array (batch, width)."""
        y = np.empty(self.shape, self.like.dtype)
        over_batch(kernel, self.shape[0], self.work, *args, y)
        return y

    def tokens(self, x: Any) -> Any:
        """``x`` (batch, width) as an array."""
        return as_token_array(x, self.like, self.shape)

    def context(self, context: Any) -> Any:
        """The context as an array."""
        return as_token_array(context, self.like, self.context_shape)


class TorchStep(CompiledStep):
    """Adapts a mixer that has only plain torch steps, so that it can run among compiled steps."""

    def __init__(self, mixer: Any, batch_size: int, like: Any, width: int, state: Any) -> None:
        super().__init__(batch_size, like, width, 0)
        self.mixer, self.state = mixer, state

    def advance(self, x: Any, context: Any = None) -> Any:
        y, self.state = self.mixer.step(torch.from_numpy(x), self.state, context)
        return self.tokens(y)
