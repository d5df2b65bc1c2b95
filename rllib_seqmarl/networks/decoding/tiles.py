"""Products of a few rows with a matrix, for kernels.

Such a product is bound by loads unless sums stay in registers, which LLVM's vectoriser does not achieve: plain loops
take three times as long. So the innermost part is written in LLVM's vector types: a tile of the
result, ``HEIGHT`` rows by one vector, is accumulated in registers over the whole depth of the product.
"""

from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor, nn

from rllib_seqmarl.ops.numba_math import aligned, kernel

VECTOR_BYTES = 64
# Accumulators of a tile: eight registers of 64 bytes, or of 32 bytes if each vector is split in two.
HEIGHT = 8 if get_host_cpu_features().get("avx512f") else 4


def _make_tile(height: int) -> Any:
    """Create an intrinsic for tiles with this number of rows."""

    @intrinsic
    def tile(typing_context: Any, x: Any, first: Any, w: Any, column: Any, y: Any, row: Any) -> Any:
        """y[row + i, columns] = x[first + i] @ w[:-1, columns] + w[-1, columns], for one vector of columns."""
        lanes = VECTOR_BYTES * 8 // x.dtype.bitwidth
        alignment = x.dtype.bitwidth // 8

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            index = context.get_value_type(types.intp)
            vector = ir.VectorType(context.get_value_type(x.dtype), lanes)

            def array_and_width(position: int) -> tuple[Any, Any]:
                array = context.make_array(signature.args[position])(context, builder, args[position])
                return array, cgutils.unpack_tuple(builder, array.shape, 2)

            def pointer(position: int, array: Any, at: tuple[Any, Any], as_vector: bool) -> Any:
                item = cgutils.get_item_pointer(context, builder, signature.args[position], array, at)
                return builder.bitcast(item, vector.as_pointer()) if as_vector else item

            def number(position: int) -> Any:
                return context.cast(builder, args[position], signature.args[position], types.intp)

            (xs, (_, x_width)), (ws, (w_height, w_width)), (ys, _) = (array_and_width(i) for i in (0, 2, 4))
            depth = builder.sub(w_height, index(1))
            start = builder.load(pointer(2, ws, (depth, number(3)), True), align=alignment)
            x_start, w_start = (
                pointer(0, xs, (number(1), index(0)), False),
                pointer(2, ws, (index(0), number(3)), False),
            )

            before, loop, after = builder.block, *map(builder.append_basic_block, ("depth", "stored"))
            builder.branch(loop)
            builder.position_at_end(loop)
            k = builder.phi(index)
            sums = [builder.phi(vector) for _ in range(height)]
            weights = builder.bitcast(builder.gep(w_start, [builder.mul(k, w_width)]), vector.as_pointer())
            weights = builder.load(weights, align=alignment)
            new_sums = []
            for i, total in enumerate(sums):
                item = builder.load(builder.gep(x_start, [builder.add(builder.mul(index(i), x_width), k)]))
                term = builder.fmul(_broadcast(builder, item, vector), weights, flags=["contract"])
                new_sums.append(builder.fadd(total, term, flags=["contract"]))
            next_k = builder.add(k, index(1))
            for phi, at_first, later in zip(
                (k, *sums), (index(0), *[start] * height), (next_k, *new_sums), strict=True
            ):
                phi.add_incoming(at_first, before)
                phi.add_incoming(later, loop)
            builder.cbranch(builder.icmp_signed("<", next_k, depth), loop, after)
            builder.position_at_end(after)
            for i, total in enumerate(new_sums):
                place = pointer(4, ys, (builder.add(number(5), index(i)), number(3)), True)
                builder.store(total, place, align=alignment)
            return context.get_dummy_value()

        return types.void(x, first, w, column, y, row), build

    return tile


def _broadcast(builder: Any, item: Any, vector: Any) -> Any:
    """Build a vector of copies of ``item``."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, item, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


_tall_tile, _flat_tile = _make_tile(HEIGHT), _make_tile(1)


@kernel
def affine(x: Any, first: Any, rows: Any, w: Any, y: Any) -> None:
    """y[r] = x[first + r] @ weight + bias for r < rows; ``w`` as returned by :func:`packed`, y at least as wide.

    x is (..., at least depth) and y (at least rows, ...), with the dtype of w and adjacent columns.
    """
    lanes = VECTOR_BYTES // w.itemsize
    tall_rows = rows - rows % HEIGHT
    for column in range(0, w.shape[1], lanes):
        for r in range(0, tall_rows, HEIGHT):
            _tall_tile(x, first + r, w, column, y, r)
        for r in range(tall_rows, rows):
            _flat_tile(x, first + r, w, column, y, r)


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
