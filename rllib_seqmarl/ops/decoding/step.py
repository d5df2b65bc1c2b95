"""What compiled steps have in common: tensors in, a tensor out, kernels in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rllib_seqmarl.ops.numba_support import over_batch

# So many multiplications with additions of a matrix product take as long as one element of other work.
PRODUCTS_PER_ELEMENT = 32


def tokens_of(x: Tensor, like: Any, shape: tuple[int, ...]) -> Any:
    """``x`` as a contiguous array of the type of ``like``; kernels do not look where they read, so shapes are checked.

    Raises:
        ValueError: ``x`` has another shape.
    """
    if x.shape != shape:
        raise ValueError(f"this state goes on with tokens of shape {tuple(shape)}, not {tuple(x.shape)}")
    array = (x.detach() if x.requires_grad else x).numpy()
    if array.dtype is like.dtype and array.flags.c_contiguous:
        return array
    return np.ascontiguousarray(array, like.dtype)


class CompiledStep:
    """A part of the network, packed for going token by token, with the state of a batch of sequences.

    Args:
        batch_size: Sequences that go side by side.
        like: An array of the type of the numbers.
        width: Of a token.
        products: Multiplications of matrix products per token, from which the number of threads follows.
    """

    def __init__(self, batch_size: int, like: Any, width: int, products: int) -> None:
        self.like, self.shape = like, (batch_size, width)
        self.work = batch_size * products // PRODUCTS_PER_ELEMENT

    def run(self, kernel: Any, *args: Any) -> Tensor:
        """A token's output (batch, width), which ``kernel(begin, end, *args, output)`` fills."""
        y = np.empty(self.shape, self.like.dtype)
        over_batch(kernel, self.shape[0], self.work, *args, y)
        return torch.from_numpy(y)

    def tokens(self, x: Tensor) -> Any:
        """``x`` (batch, width) as an array."""
        return tokens_of(x, self.like, self.shape)
