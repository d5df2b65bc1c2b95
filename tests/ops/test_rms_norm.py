"""RMSNorm equals torch's own on every available backend."""

import math

import pytest
import torch
from torch.nn import functional as F

from rllib_seqmarl.ops.rms_norm import RMS_NORM, RMSNorm, rms_norm


@pytest.fixture(autouse=True)
def kernels_for_all_sizes(monkeypatch):
    if "numba" in RMS_NORM.available():
        monkeypatch.setattr("rllib_seqmarl.ops.rms_norm_numba.SMALL", 0)


@pytest.mark.parametrize("backend", RMS_NORM.available())
@pytest.mark.parametrize("shape", [(1, 1), (3, 4, 5), (2, 0, 3), (300, 70)])
def test_values_and_gradients(backend, shape):
    torch.manual_seed(math.prod(shape))
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape[-1:], dtype=torch.float64, requires_grad=True)
    y = rms_norm(x, weight, 1e-3, backend)
    expected = F.rms_norm(x, shape[-1:], weight, 1e-3)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    grad = torch.randn_like(y)
    for actual, own in zip(*(torch.autograd.grad(out, (x, weight), grad) for out in (y, expected)), strict=True):
        torch.testing.assert_close(actual, own, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", RMS_NORM.available())
def test_gradcheck_of_a_part_of_a_tensor(backend):
    torch.manual_seed(0)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x[:, ::2], w, 0.1, backend), (x, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_of_any_type(dtype):
    layer, own = RMSNorm(64, 1e-6).to(dtype), torch.nn.RMSNorm(64, 1e-6).to(dtype)
    x = torch.randn(7, 64, dtype=dtype)
    torch.testing.assert_close(layer(x), own(x))


def test_a_weight_of_the_wrong_shape_is_rejected():
    with pytest.raises(ValueError, match=r"weight must have shape \(4,\) with x \(2, 4\), not \(3,\)"):
        rms_norm(torch.zeros(2, 4), torch.zeros(3), 1e-6)
