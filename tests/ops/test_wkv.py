"""RWKV's recurrences equal their definitions on every available backend and are stable for extreme inputs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_seqmarl.ops.wkv import (
    WKV4,
    WKV6,
    wkv4,
    wkv6,
)

FAST_WKV4 = [name for name in WKV4.available() if name != "reference"]
FAST_WKV6 = [name for name in WKV6.available() if name != "reference"]
BATCHES = st.sampled_from([1, 2, 7, 33])


def arguments4(batch_size, length, dim, dtype=torch.float32):
    """w, u, k, v that require gradients."""
    tensors = -2 * torch.rand(dim), torch.randn(dim), *(2 * torch.randn(2, batch_size, length, dim))
    return [x.to(dtype).requires_grad_() for x in tensors]


def arguments6(batch_size, length, heads, size, dtype=torch.float32, is_constant=False):
    """r, k, v, w, u that require gradients."""
    r, k, v, w = torch.randn(4, batch_size, length, heads, size)
    w = -w.exp() if not is_constant else -torch.randn(heads, size).exp()
    return [x.to(dtype).requires_grad_() for x in (r, k, v, w, torch.randn(heads, size))]


def with_gradients(function, inputs, backend):
    y = function(*inputs, backend=backend)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
    return [y, *torch.autograd.grad((y * weight).sum(), inputs, materialize_grads=True)]


def assert_same(actual, expected, tolerance):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(b.detach().abs().max())))


@pytest.mark.parametrize("backend", WKV4.available())
def test_wkv4_equals_the_weighted_average_of_the_paper(backend):
    torch.manual_seed(0)
    w, u, k, v = arguments4(2, 6, 3, torch.float64)
    y = wkv4(w, u, k, v, backend=backend)
    for t in range(6):
        exponents = torch.stack([(t - 1 - s) * w + k[:, s] for s in range(t)] + [u + k[:, t]])
        expected = (exponents.softmax(0) * v[:, : t + 1].movedim(1, 0)).sum(0)
        torch.testing.assert_close(y[:, t], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", WKV6.available())
def test_wkv6_reads_every_predecessor_through_the_decays_in_between(backend):
    torch.manual_seed(0)
    r, k, v, w, u = arguments6(2, 6, 3, 4, torch.float64)
    y = wkv6(r, k, v, w, u, backend=backend)
    for t in range(6):
        expected = (r[:, t] * u * k[:, t]).sum(-1, keepdim=True) * v[:, t]
        for s in range(t):
            decay = w[:, s + 1 : t].sum(1).exp()
            expected = expected + (r[:, t] * decay * k[:, s]).sum(-1, keepdim=True) * v[:, s]
        torch.testing.assert_close(y[:, t], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", WKV4.available())
def test_gradients_of_wkv4(backend):
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(lambda *x: wkv4(*x, backend=backend), arguments4(2, 5, 3, torch.float64))


@pytest.mark.parametrize("backend", WKV6.available())
@pytest.mark.parametrize("is_constant", [False, True])
@pytest.mark.parametrize("length", [1, 5, 35])  # the last one uses states between chunks
def test_gradients_of_wkv6(backend, is_constant, length):
    torch.manual_seed(0)
    inputs = arguments6(2 if length < 10 else 1, length, 2, 2, torch.float64, is_constant)
    assert torch.autograd.gradcheck(lambda *x: wkv6(*x, backend=backend), inputs)


@pytest.mark.parametrize("backend", FAST_WKV4)
@settings(max_examples=40, deadline=None)
@given(batch_size=BATCHES, length=st.integers(1, 40), dim=st.integers(1, 70), seed=st.integers(0, 2**31))
def test_wkv4_backends_agree_with_the_reference(backend, batch_size, length, dim, seed):
    torch.manual_seed(seed)
    inputs = arguments4(batch_size, length, dim)
    assert_same(with_gradients(wkv4, inputs, backend), with_gradients(wkv4, inputs, "reference"), 1e-5)


@pytest.mark.parametrize("backend", FAST_WKV6)
@settings(max_examples=60, deadline=None)
@given(
    batch_size=BATCHES,
    length=st.integers(1, 100),
    heads=st.integers(1, 4),
    size=st.sampled_from([1, 3, 8, 16, 33]),
    is_constant=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_wkv6_backends_agree_with_the_reference(backend, batch_size, length, heads, size, is_constant, seed):
    torch.manual_seed(seed)
    inputs = arguments6(batch_size, length, heads, size, is_constant=is_constant)
    assert_same(with_gradients(wkv6, inputs, backend), with_gradients(wkv6, inputs, "reference"), 1e-5)


@pytest.mark.parametrize("backend", FAST_WKV6)
def test_wkv6_with_non_contiguous_tensors(backend):
    torch.manual_seed(0)
    inputs = arguments6(3, 5, 2, 8)
    non_contiguous = [x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for x in inputs]
    assert not non_contiguous[0].is_contiguous()
    assert_same(with_gradients(wkv6, non_contiguous, backend), with_gradients(wkv6, inputs, "reference"), 1e-5)


@pytest.mark.parametrize("backend", FAST_WKV6)
def test_result_does_not_depend_on_threads(backend):
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    shared4, shared6 = arguments4(900, 40, 16), arguments6(400, 40, 2, 16, is_constant=True)
    try:
        torch.set_num_threads(1)
        expected = with_gradients(wkv4, shared4, backend) + with_gradients(wkv6, shared6, backend)
        torch.set_num_threads(3)
        actual = with_gradients(wkv4, shared4, backend) + with_gradients(wkv6, shared6, backend)
    finally:
        torch.set_num_threads(threads)
    assert_same(actual, expected, 1e-5)


EXTREMES = [0.0, -1e-30, -1e-6, -1.0, -80.0, -1e4, -1e30]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", WKV4.available())
def test_wkv4_stays_finite_for_extreme_inputs(backend, dtype):
    torch.manual_seed(0)
    w = torch.tensor(EXTREMES, dtype=dtype).requires_grad_()
    for key_scale, value_scale in ((80.0, 1e3), (1e4, 1e6), (1e-30, 1e-30)):
        k = (key_scale * torch.sign(torch.randn(4, 40, len(w), dtype=dtype))).requires_grad_()
        v = (value_scale * torch.randn(4, 40, len(w), dtype=dtype)).requires_grad_()
        u = (key_scale * torch.randn(len(w), dtype=dtype)).requires_grad_()
        for x in with_gradients(wkv4, [w, u, k, v], backend):
            assert x.isfinite().all()
        # A weighted average is bounded by the averaged values.
        assert wkv4(w, u, k, v, backend=backend).abs().max() <= v.abs().max() * (1 + 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", WKV6.available())
def test_wkv6_stays_finite_for_extreme_inputs(backend, dtype):
    torch.manual_seed(0)
    size = len(EXTREMES)
    for is_constant in (False, True):
        for magnitude in (80.0, 1e3, 1e-30):
            r, k, v = (magnitude * torch.randn(3, 4, 70, 2, size, dtype=dtype)).unbind()
            w = torch.tensor(EXTREMES, dtype=dtype).expand(2, size)
            w = w.clone() if is_constant else w[:, torch.randperm(size)].repeat(4, 70, 1, 1)
            inputs = [x.requires_grad_() for x in (r, k, v, w, torch.randn(2, size, dtype=dtype))]
            for x in with_gradients(wkv6, inputs, backend):
                assert x.isfinite().all()


@pytest.mark.parametrize("backend", WKV6.available())
def test_full_decay_forgets_and_no_decay_keeps_everything(backend):
    torch.manual_seed(0)
    r, k, v, w, u = arguments6(2, 50, 1, 4, torch.float64)
    forgets = wkv6(r, k, v, torch.full_like(w, -math.inf), u, backend=backend)
    alone = (r * u * k).sum(-1, keepdim=True) * v
    # The next token reads a value before it has decayed.
    alone[:, 1:] += (r[:, 1:] * k[:, :-1]).sum(-1, keepdim=True) * v[:, :-1]
    torch.testing.assert_close(forgets, alone, rtol=0, atol=1e-10)
    keeps = wkv6(r, k, v, torch.zeros_like(w), u, backend=backend)
    written = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(1)
    written = written - (1 - u).unsqueeze(-1) * k.unsqueeze(-1) * v.unsqueeze(-2)
    torch.testing.assert_close(keeps, (r.unsqueeze(-2) @ written).squeeze(-2), rtol=0, atol=1e-9)


def test_unavailable_backends_are_rejected():
    with pytest.raises(ValueError, match="not a backend of wkv6.*fla, numba, reference"):
        wkv6(*arguments6(1, 2, 1, 4), backend="cuda")
    with pytest.raises(ValueError, match="backend='fla' of wkv6 cannot run here: its kernels are for CUDA"):
        wkv6(*arguments6(1, 2, 1, 4), backend="fla")


def test_wrong_shapes_are_named():
    r, k, v, w, u = arguments6(2, 6, 3, 4)
    with pytest.raises(ValueError, match=r"w must have shape \(2, 6, 3, 4\) with r \(2, 6, 3, 4\), not \(6, 3, 4\)"):
        wkv6(r, k, v, w[0], u)
    w, u, k, v = arguments4(2, 6, 3)
    with pytest.raises(ValueError, match=r"u must have shape \(3,\) with k \(2, 6, 3\), not \(1,\)"):
        wkv4(w, u[:1], k, v)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_float32(dtype):
    torch.manual_seed(0)
    for function, inputs in ((wkv4, arguments4(2, 200, 5)), (wkv6, arguments6(2, 200, 2, 4))):
        inputs = [x.detach().to(dtype) for x in inputs]
        y = function(*inputs)
        assert y.dtype == dtype
        torch.testing.assert_close(y, function(*(x.float() for x in inputs)).to(dtype), rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", WKV6.available("cuda") if torch.cuda.is_available() else ["fla"])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 64), (7, 33, 4, 16), (800, 8, 1, 64)])
def test_on_cuda_wkv6_backends_agree_with_the_reference(backend, sizes):
    torch.manual_seed(0)
    inputs = [x.detach().cuda().requires_grad_() for x in arguments6(*sizes)]
    outputs = []
    for name in (backend, "reference"):
        y = wkv6(*inputs, backend=name)
        outputs.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    assert_same(*outputs, tolerance=1e-3)  # the library multiplies in TF32
