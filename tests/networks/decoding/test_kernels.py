"""The parts of decoding kernels agree with torch's layers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

pytest.importorskip("numba")

from rllib_seqmarl.networks.decoding import DECODING, is_compiled
from rllib_seqmarl.networks.decoding.rows import layer_norm, norm_weights, rms_norm
from rllib_seqmarl.networks.decoding.tiles import affine, array, composed, packed, packed_layer
from rllib_seqmarl.ops import numba_math
from rllib_seqmarl.ops.numba_math import kernel

DTYPES = st.sampled_from([torch.float32, torch.float64])


def assert_near(actual, expected):
    """Equal up to rounding of sums whose terms are about one."""
    torch.testing.assert_close(torch.as_tensor(actual), expected, rtol=0, atol=2e3 * torch.finfo(expected.dtype).eps)


def apply(w, x, width):
    """Apply the packed layer to the rows of x; padding beyond the layer's width must not matter."""
    y = np.full((len(x), w.shape[1]), np.nan, w.dtype)
    affine(x.numpy(), 0, len(x), w, y)
    return y[:, :width]


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 40), depth=st.integers(1, 70), width=st.integers(1, 70), has_bias=st.booleans(), dtype=DTYPES,
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_packed_layer_equals_the_layer(rows, depth, width, has_bias, dtype, seed):
    torch.manual_seed(seed)
    layer, x = nn.Linear(depth, width, bias=has_bias, dtype=dtype), torch.randn(rows, depth, dtype=dtype)
    with torch.no_grad():
        assert_near(apply(packed_layer(layer), x, width), layer(x))
        transposed = packed(array(layer.weight.mT.contiguous()), None, is_transposed=True)
        assert_near(apply(transposed, x, width), F.linear(x, layer.weight))


@settings(max_examples=50, deadline=None)
@given(sizes=st.tuples(*[st.integers(1, 40)] * 4), dtype=DTYPES, seed=st.integers(0, 2**31))
@torch.no_grad()
def test_composition_of_two_layers(sizes, dtype, seed):
    torch.manual_seed(seed)
    rows, depth, between, width = sizes
    first, second = nn.Linear(depth, between, dtype=dtype), nn.Linear(between, width, dtype=dtype)
    x = torch.randn(rows, depth, dtype=dtype)
    w = composed(packed_layer(first), packed(array(second.weight)), array(second.bias))
    assert_near(apply(w, x, width), second(first(x)))


def test_product_of_some_rows_leaves_other_rows_unchanged():
    x, w = np.ones((5, 3)), packed(np.ones((2, 3)))
    y = np.zeros((4, 8))
    affine(x, 3, 2, w, y)
    assert (y[:2, :2] == 3).all() and not y[2:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 6, 64, 77])
@torch.no_grad()
def test_norms(dtype, dim):
    torch.manual_seed(0)
    layers = (
        nn.LayerNorm(dim, dtype=dtype),
        nn.LayerNorm(dim, bias=False, dtype=dtype),
        nn.RMSNorm(dim, 1e-3, dtype=dtype),
    )
    x = 3 + torch.randn(4, dim, dtype=dtype)
    for layer, function in zip(layers, (layer_norm, layer_norm, rms_norm), strict=True):
        for parameter in layer.parameters():
            parameter.normal_()
        y = np.empty((6, dim), norm_weights(layer).dtype)
        for row in range(4):
            function(x.numpy(), row, norm_weights(layer), y, row + 2)
        assert_near(y[2:], layer(x))


@kernel
def _error_function(x, y):
    for i in range(len(x)):
        y[i] = numba_math.erf(x[i])


@kernel
def _gelu(x, y):
    for i in range(len(x)):
        y[i] = numba_math.gelu(x[i])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-7), (np.float64, 1e-15)])
def test_error_function_and_gelu(dtype, tolerance):
    x = np.concatenate([np.linspace(-7, 7, 100_001), [-1e30, 1e30, 0.0]]).astype(dtype)
    y = np.empty_like(x)
    _error_function(x, y)
    assert np.abs(y - np.array([math.erf(value) for value in x])).max() <= tolerance
    _gelu(x, y)
    error = np.abs(y - F.gelu(torch.tensor(x).double()).numpy()) / np.maximum(1, np.abs(x))
    assert error.max() <= tolerance


def test_when_steps_are_compiled():
    single, half = torch.zeros(1), torch.zeros(1, dtype=torch.float16)
    assert is_compiled("auto", single) and is_compiled("numba", single) and is_compiled("fla", single.double())
    assert not is_compiled("reference", single) and not is_compiled("auto", half)
    assert not is_compiled("auto", torch.zeros(1, device="meta"))
    with pytest.raises(ValueError, match="backend='numba' of decoding cannot run here.*support float32 and float64"):
        is_compiled("numba", half)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_compiled("auto", single)
    assert DECODING.available("meta") == ["reference"]
