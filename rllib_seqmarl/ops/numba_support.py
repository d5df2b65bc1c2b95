"""What all numba kernels share: how they are compiled, fast elementary functions, and threads over the batch.

Kernels are plain loops whose innermost index runs over channels, so that LLVM turns them into vector instructions.
They are compiled on first use and kept in numba's cache, so later processes start without compiling. They release
the interpreter lock and are started from ordinary threads, as many as torch uses (`torch.set_num_threads`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

HAS_NUMBA = find_spec("numba") is not None
# Fewer elements of work than this are not worth a second thread.
WORK_PER_THREAD = 1 << 18


def numba_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why numba's kernels cannot run on such tensors, with the remedy."""
    if device.type != "cpu":
        return f"its kernels are for the CPU, and the tensors are on {device.type}"
    if dtype not in (torch.float32, torch.float64):
        return f"its kernels are for float32 and float64, not {str(dtype).removeprefix('torch.')}"
    if not HAS_NUMBA:
        return "numba is not installed; `pip install numba`"
    return None


def rows(x: Tensor) -> Any:
    """(batch, channels, length) as a numpy array (batch, length, channels); no copy if channels are adjacent."""
    return x.detach().mT.contiguous().numpy()


@lru_cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="rllib_seqmarl_scan")


def over_batch(kernel: Callable[..., Any], batch_size: int, work: int, *args: Any) -> list[Any]:
    """Runs ``kernel(begin, end, *args)`` on shares of the batch, one share per thread; returns every share's result.

    ``work`` is the number of elements in the whole batch, from which the number of threads follows.
    """
    shares = max(1, min(torch.get_num_threads(), batch_size, work // WORK_PER_THREAD))
    if shares == 1:
        return [kernel(0, batch_size, *args)]
    bounds = [batch_size * i // shares for i in range(shares + 1)]
    pool = _threads(torch.get_num_threads())
    return [f.result() for f in [pool.submit(kernel, bounds[i], bounds[i + 1], *args) for i in range(shares)]]


if HAS_NUMBA:
    import numpy as np
    from llvmlite import ir
    from numba import njit, types
    from numba.extending import intrinsic, overload

    # Sums may be reordered and products fused; infinities and NaNs keep their meaning.
    kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"})

    @kernel
    def scratch(rows: Any, width: Any, like: Any) -> Any:
        """(rows, at least width) uninitialised numbers like those of ``like``, rows aligned to cache lines.

        Rows start at different offsets within a page: loads and stores of addresses that are equal modulo 4096 wait for
        one another, which made a loop over planes of exactly one page three times slower.
        """
        line = 64 // like.itemsize
        padded = (width + line - 1) // line * line + 5 * line
        flat = np.empty(rows * padded + line, like.dtype)
        start = (-flat.ctypes.data // like.itemsize) % line
        return flat[start : start + rows * padded].reshape(rows, padded)

    @intrinsic
    def _as_float(typing_context: Any, bits: Any) -> Any:
        """The float32 whose bits are the given int32."""
        return types.float32(types.int32), lambda _, builder, __, args: builder.bitcast(args[0], ir.FloatType())

    @intrinsic
    def _as_int(typing_context: Any, x: Any) -> Any:
        """The int32 that has the bits of the given float32."""
        return types.int32(types.float32), lambda _, builder, __, args: builder.bitcast(args[0], ir.IntType(32))

    @intrinsic
    def _rint(typing_context: Any, x: Any) -> Any:
        """The float32 nearest to the given one that is a whole number."""

        def build(_: Any, builder: Any, __: Any, args: Any) -> Any:
            rint = builder.module.declare_intrinsic("llvm.rint", [ir.FloatType()])
            return builder.call(rint, args)

        return types.float32(types.float32), build

    ONE, HALF = np.float32(1.0), np.float32(0.5)
    LOWEST, HIGHEST = np.float32(-126.0), np.float32(127.0)  # exponents of normal float32 numbers
    LOG2_E = 1.4426950408889634

    def exp2(x: Any) -> Any:
        """2**x, for kernels. In float32 it vectorises, is accurate to 2e-7 of the value and never overflows."""

    @overload(exp2, inline="always")
    def _exp2(x: Any) -> Any:
        def in_float32(x: Any) -> Any:
            x = min(max(x, LOWEST), HIGHEST)
            i = np.int32(_rint(x))
            f = x - np.float32(i)  # in [-1/2, 1/2], where a polynomial does
            p = np.float32(0.00132764701)
            p = p * f + np.float32(0.00967554189)
            p = p * f + np.float32(0.0555071346)
            p = p * f + np.float32(0.240221202)
            p = p * f + np.float32(0.693146944)
            # Adding to a number's exponent multiplies it by a power of two.
            return _as_float(np.int32(_as_int(p * f + ONE) + np.int32(i << np.int32(23))))

        def in_float64(x: Any) -> Any:
            return math.exp(x * 0.6931471805599453)

        return in_float32 if x is types.float32 else in_float64

    def log1p(x: Any) -> Any:
        """log(1 + x) for x in [0, 1], for kernels. In float32 it vectorises and is accurate to 2e-7 of the value."""

    @overload(log1p, inline="always")
    def _log1p(x: Any) -> Any:
        def in_float32(x: Any) -> Any:
            p = np.float32(0.00523267314)
            p = p * x - np.float32(0.0295051597)
            p = p * x + np.float32(0.0782258362)
            p = p * x - np.float32(0.136632368)
            p = p * x + np.float32(0.191060036)
            p = p * x - np.float32(0.24842982)
            p = p * x + np.float32(0.333190978)
            p = p * x - np.float32(0.499994934)
            return (p * x + ONE) * x

        def in_float64(x: Any) -> Any:
            return math.log1p(x)

        return in_float32 if x is types.float32 else in_float64

    def exp(x: Any) -> Any:
        """e**x, for kernels; in float32 as :func:`exp2`."""

    @overload(exp, inline="always")
    def _exp(x: Any) -> Any:
        def in_float32(x: Any) -> Any:
            return exp2(x * np.float32(LOG2_E))

        def in_float64(x: Any) -> Any:
            return math.exp(x)

        return in_float32 if x is types.float32 else in_float64
