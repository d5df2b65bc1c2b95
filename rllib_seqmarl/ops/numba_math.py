"""Compilation of kernels, their scratch memory, and fast elementary functions for them. Imports numba."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from rllib_seqmarl.ops.numba_cache import SharedCache


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel on first use. Sums may be reordered and products fused; NaNs propagate.

    If numba finds no writable directory for its cache, every process compiles again.
    """
    dispatcher = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"})(function)
    try:
        dispatcher._cache = SharedCache(function)  # as `cache=True` does with numba's own
    except RuntimeError:
        return dispatcher
    return dispatcher


@kernel
def aligned(rows: Any, width: Any, like: Any) -> Any:
    """(rows, width) uninitialised numbers with the dtype of ``like``, aligned to the start of a cache line."""
    line = 64 // like.itemsize
    flat = np.empty(rows * width + line, like.dtype)
    start = (-flat.ctypes.data // like.itemsize) % line
    return flat[start : start + rows * width].reshape(rows, width)


@kernel
def scratch(rows: Any, width: Any, like: Any) -> Any:
    """(rows, at least width) uninitialised numbers with the dtype of ``like``, rows aligned to cache lines.

    Rows start at different offsets within a page: loads and stores at addresses that are equal modulo 4096 stall each
    other, which made a loop over planes of exactly one page three times slower.
    """
    line = 64 // like.itemsize
    return aligned(rows, (width + line - 1) // line * line + 5 * line, like)


@intrinsic
def _as_float(typing_context: Any, bits: Any) -> Any:
    """Reinterpret the bits of an int32 as a float32."""
    return types.float32(types.int32), lambda _, builder, __, args: builder.bitcast(args[0], ir.FloatType())


@intrinsic
def _as_int(typing_context: Any, x: Any) -> Any:
    """Reinterpret the bits of a float32 as an int32."""
    return types.int32(types.float32), lambda _, builder, __, args: builder.bitcast(args[0], ir.IntType(32))


@intrinsic
def _rint(typing_context: Any, x: Any) -> Any:
    """Round a float32 to the nearest integer, as a float32."""

    def build(_: Any, builder: Any, __: Any, args: Any) -> Any:
        rint = builder.module.declare_intrinsic("llvm.rint", [ir.FloatType()])
        return builder.call(rint, args)

    return types.float32(types.float32), build


ONE = np.float32(1.0)
LOWEST, HIGHEST = np.float32(-126.0), np.float32(127.0)  # exponents of normal float32 numbers
LOG2_E = 1.4426950408889634


def _elementary(function: Callable[..., Any], in_float64: Callable[..., Any]) -> Any:
    """Decorate the implementation of ``function`` in kernels for float32; for float64 it is ``in_float64``."""
    # Not strict: lambdas lack the annotations of the functions.
    return lambda in_float32: overload(function, strict=False)(
        lambda x: in_float32 if x is types.float32 else in_float64
    )


def exp2(x: Any) -> Any:
    """2**x, for kernels. In float32 it vectorises, is accurate to 2e-7 of the value and never overflows."""


@_elementary(exp2, lambda x: math.exp(x * 0.6931471805599453))
def _exp2(x: Any) -> Any:
    x = min(max(x, LOWEST), HIGHEST)
    i = np.int32(_rint(x))
    f = x - np.float32(i)  # in [-1/2, 1/2], where a polynomial is accurate
    p = np.float32(0.00132764701)
    p = p * f + np.float32(0.00967554189)
    p = p * f + np.float32(0.0555071346)
    p = p * f + np.float32(0.240221202)
    p = p * f + np.float32(0.693146944)
    # Adding to a number's exponent multiplies it by a power of two.
    return _as_float(np.int32(_as_int(p * f + ONE) + np.int32(i << np.int32(23))))


def log1p(x: Any) -> Any:
    """log(1 + x) for x in [0, 1], for kernels. In float32 it vectorises and is accurate to 2e-7 of the value."""


@_elementary(log1p, lambda x: math.log1p(x))
def _log1p(x: Any) -> Any:
    p = np.float32(0.00523267314)
    p = p * x - np.float32(0.0295051597)
    p = p * x + np.float32(0.0782258362)
    p = p * x - np.float32(0.136632368)
    p = p * x + np.float32(0.191060036)
    p = p * x - np.float32(0.24842982)
    p = p * x + np.float32(0.333190978)
    p = p * x - np.float32(0.499994934)
    return (p * x + ONE) * x


def exp(x: Any) -> Any:
    """e**x, for kernels; in float32 with the properties of :func:`exp2`."""


@_elementary(exp, lambda x: math.exp(x))
def _exp(x: Any) -> Any:
    return exp2(x * np.float32(LOG2_E))


def erf(x: Any) -> Any:
    """The error function, for kernels. In float32 it vectorises, is accurate to 2e-7, and is 1 from 4.2 on."""


@_elementary(erf, lambda x: math.erf(x))
def _erf(x: Any) -> Any:
    # 1 - 2**(-a p(a)) with a = |x| and a fitted polynomial p: 1 - erf is smooth on a logarithmic scale.
    a = min(abs(x), np.float32(4.2))
    p = np.float32(4.53586144e-05)
    p = p * a - np.float32(0.000445507758)
    p = p * a + np.float32(0.00148944196)
    p = p * a + np.float32(0.000774629239)
    p = p * a - np.float32(0.0282536801)
    p = p * a + np.float32(0.148481622)
    p = p * a + np.float32(0.918416381)
    p = p * a + np.float32(1.62790859)
    value = ONE - exp2(-a * p)
    return value if x >= np.float32(0.0) else -value


def gelu(x: Any) -> Any:
    """GELU, for kernels: x times the probability that a standard normal number is below x."""


@overload(gelu)
def _gelu(x: Any) -> Any:
    half, root = (np.float32(0.5), np.float32(0.5**0.5)) if x is types.float32 else (0.5, 0.5**0.5)

    def activate(x: Any) -> Any:
        return half * x * (half + half + erf(x * root))

    return activate


def tanh_gelu(x: Any) -> Any:
    """The approximation of GELU with a hyperbolic tangent, for kernels."""


@overload(tanh_gelu)
def _tanh_gelu(x: Any) -> Any:
    numbers = 1.0, -2 * (2 / math.pi) ** 0.5, 0.044715
    one, slope, cubic = map(np.float32, numbers) if x is types.float32 else numbers

    def activate(x: Any) -> Any:
        return x / (one + exp(slope * (x + cubic * x * x * x)))

    return activate
