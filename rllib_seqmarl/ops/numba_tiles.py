"""Tiles of matrix products in registers, for kernels.

A product of small matrices is bound by loads unless sums stay in registers, which LLVM's vectoriser does not achieve:
plain loops take three times as long. So the innermost part is written in LLVM's vector types: a tile of the result,
``HEIGHT`` rows by one vector, is accumulated in registers over the whole depth of the product.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rllib_seqmarl.ops.numba_math import kernel

VECTOR_BYTES = 64
# Accumulators of a tile: eight registers of 64 bytes, or of 32 bytes if each vector is split in two.
HEIGHT = 8 if get_host_cpu_features().get("avx512f") else 4


def make_tile(height: int, is_added: bool) -> Any:
    """Create an intrinsic for tiles with this number of rows.

    The result is added to ``y`` with ``is_added``, otherwise to the last row of w, a bias.
    """

    @intrinsic
    def tile(
        typing_context: Any, x: Any, first: Any, w: Any, depth: Any, column: Any, y: Any, row: Any
    ) -> Any:  # fmt: skip
        """y[row + i, columns] = x[first + i, :depth] @ w[:depth, columns] + w[depth, columns], or += without the bias,
        for one vector of columns. w and y have adjacent columns; x may be transposed."""
        lanes = VECTOR_BYTES * 8 // x.dtype.bitwidth
        alignment = x.dtype.bitwidth // 8

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            index = context.get_value_type(types.intp)
            vector = ir.VectorType(context.get_value_type(x.dtype), lanes)

            def array_at(position: int) -> Any:
                return context.make_array(signature.args[position])(context, builder, args[position])

            def pointer(position: int, array: Any, at: tuple[Any, Any], as_vector: bool) -> Any:
                item = cgutils.get_item_pointer(context, builder, signature.args[position], array, at)
                return builder.bitcast(item, vector.as_pointer()) if as_vector else item

            def number(position: int) -> Any:
                return context.cast(builder, args[position], signature.args[position], types.intp)

            xs, ws, ys = array_at(0), array_at(2), array_at(5)
            x_row, x_column = cgutils.unpack_tuple(builder, xs.shape, 2)[1], index(1)
            if x.layout != "C":
                strides = cgutils.unpack_tuple(builder, xs.strides, 2)
                x_row, x_column = (builder.sdiv(stride, index(alignment)) for stride in strides)
            w_width, last = cgutils.unpack_tuple(builder, ws.shape, 2)[1], number(3)
            places = [pointer(5, ys, (builder.add(number(6), index(i)), number(4)), True) for i in range(height)]
            if is_added:
                starts = [builder.load(place, align=alignment) for place in places]
            else:
                starts = [builder.load(pointer(2, ws, (last, number(4)), True), align=alignment)] * height
            x_start, w_start = (
                pointer(0, xs, (number(1), index(0)), False),
                pointer(2, ws, (index(0), number(4)), False),
            )

            before, loop, after = builder.block, *map(builder.append_basic_block, ("depth", "stored"))
            builder.branch(loop)
            builder.position_at_end(loop)
            k = builder.phi(index)
            sums = [builder.phi(vector) for _ in range(height)]
            weights = builder.bitcast(builder.gep(w_start, [builder.mul(k, w_width)]), vector.as_pointer())
            weights = builder.load(weights, align=alignment)
            x_k = builder.mul(k, x_column)
            new_sums = []
            for i, total in enumerate(sums):
                item = builder.load(builder.gep(x_start, [builder.add(builder.mul(index(i), x_row), x_k)]))
                term = builder.fmul(_broadcast(builder, item, vector), weights, flags=["contract"])
                new_sums.append(builder.fadd(total, term, flags=["contract"]))
            next_k = builder.add(k, index(1))
            for phi, at_first, later in zip((k, *sums), (index(0), *starts), (next_k, *new_sums), strict=True):
                phi.add_incoming(at_first, before)
                phi.add_incoming(later, loop)
            builder.cbranch(builder.icmp_signed("<", next_k, last), loop, after)
            builder.position_at_end(after)
            for place, total in zip(places, new_sums, strict=True):
                builder.store(total, place, align=alignment)
            return context.get_dummy_value()

        return types.void(x, first, w, depth, column, y, row), build

    return tile


def _broadcast(builder: Any, item: Any, vector: Any) -> Any:
    """Build a vector of copies of ``item``."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, item, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


_added_tile = make_tile(HEIGHT, is_added=True)


@kernel
def add_product(x: Any, rows: Any, w: Any, depth: Any, y: Any) -> None:
    """y[:rows] += x[:rows, :depth] @ w[:depth], for a depth of 1 or more.

    ``rows`` is rounded up to a multiple of ``HEIGHT``; rows beyond it are undefined afterwards. w and y have the same
    width, a multiple of VECTOR_BYTES; x may be transposed.
    """
    lanes = VECTOR_BYTES // w.itemsize
    for column in range(0, w.shape[1], lanes):
        for row in range(0, rows, HEIGHT):
            _added_tile(x, row, w, depth, column, y, row)
