"""Products of a few rows with a packed matrix, for kernels."""

from typing import Any

from torch import Tensor, nn

from rllib_seqmarl.ops.numba_math import aligned, kernel
from rllib_seqmarl.ops.numba_tiles import HEIGHT, VECTOR_BYTES, make_tile

_tall_tile, _flat_tile = make_tile(HEIGHT, is_added=False), make_tile(1, is_added=False)


@kernel
def affine(x: Any, first: Any, rows: Any, w: Any, y: Any) -> None:
    """y[r] = x[first + r] @ weight + bias for r < rows; ``w`` as returned by :func:`packed`, y at least as wide.

    x is (..., at least depth) and y (at least rows, ...), with the dtype of w and adjacent columns.
    """
    lanes, depth = VECTOR_BYTES // w.itemsize, len(w) - 1
    tall_rows = rows - rows % HEIGHT
    for column in range(0, w.shape[1], lanes):
        for r in range(0, tall_rows, HEIGHT):
            _tall_tile(x, first + r, w, depth, column, y, r)
        for r in range(tall_rows, rows):
            _flat_tile(x, first + r, w, depth, column, y, r)


@kernel
def _pack_each(weights: Any, biases: Any, is_transposed: Any) -> Any:
    """weights (layers, width, depth), or (layers, depth, width) if transposed; biases (layers or 0, width)."""
    layers, width, depth = weights.shape
    if is_transposed:
        width, depth = depth, width
    lanes = VECTOR_BYTES // weights.itemsize
    zero = weights.dtype.type(0)
    w = aligned(layers * (depth + 1), (width + lanes - 1) // lanes * lanes, weights).reshape(layers, depth + 1, -1)
    for m in range(layers):
        for k in range(depth):
            for j in range(width):
                w[m, k, j] = weights[m, k, j] if is_transposed else weights[m, j, k]
        for j in range(width):
            w[m, depth, j] = biases[m, j] if len(biases) > 0 else zero
        for k in range(depth + 1):
            for j in range(width, w.shape[2]):
                w[m, k, j] = zero
    return w


@kernel
def _compose(first: Any, second: Any, bias: Any) -> Any:
    """The packed product of ``first`` and ``second`` (both packed) with ``bias`` (width,) or (0,)."""
    w = aligned(len(first), second.shape[1], second)
    # The last row of the first is its bias, which is multiplied by the second as well.
    affine(first, 0, len(first), second, w)
    for j in range(len(bias)):
        w[len(w) - 1, j] += bias[j]
    return w


def array(parameter: Tensor) -> Any:
    """The parameter as an array that shares its memory."""
    return parameter.detach().numpy()


def packed(weight: Any, bias: Any = None, is_transposed: bool = False) -> Any:
    """Pack a linear layer's weight (width, depth), or (depth, width) if transposed, and bias for :func:`affine`.

    Arguments and result are arrays. The result is (depth + 1, width): row k holds the weights of input k, the last row
    the bias; width is rounded up to whole vectors.
    """
    return packed_each(weight[None], None if bias is None else bias[None], is_transposed)[0]


def packed_each(weights: Any, biases: Any = None, is_transposed: bool = False) -> Any:
    """Pack several layers of one size as in :func:`packed`; the first axis of all arrays is the layer."""
    return _pack_each(weights, weights[:0, 0] if biases is None else biases, is_transposed)


def composed(first: Any, second: Any, bias: Any = None) -> Any:
    """Compose two packed linear layers into one, the second without bias; ``bias`` is added at the end."""
    return _compose(first, second, second[0, :0] if bias is None else bias)


def packed_layer(layer: nn.Linear) -> Any:
    """Pack a layer as in :func:`packed`."""
    return packed(array(layer.weight), None if layer.bias is None else array(layer.bias))
