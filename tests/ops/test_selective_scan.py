"""The selective scan and the causal convolution equal their definitions on every available backend."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from rllib_seqmarl.ops import backends, numba_support
from rllib_seqmarl.ops.causal_conv1d import CAUSAL_CONV1D, causal_conv1d
from rllib_seqmarl.ops.selective_scan import (
    MAX_DELTA,
    SELECTIVE_SCAN,
    selective_scan,
)

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
SCANS = SELECTIVE_SCAN.available()
FAST_SCANS = [name for name in SCANS if name != "reference"]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def arguments(batch_size, dim, length, state, dtype=torch.float32, device="cpu", channels_last=True):
    """Random arguments of a scan that require gradients, in the order of its signature."""
    sizes = {"u": dim, "delta": dim, "B": state, "C": state, "z": dim}
    tensors_by_name = {}
    for name, channels in sizes.items():
        x = torch.randn(batch_size, length, channels, dtype=dtype, device=device)
        tensors_by_name[name] = x.mT if channels_last else x.mT.contiguous()
    tensors_by_name["A"] = -4 * torch.rand(dim, state, dtype=dtype, device=device)
    tensors_by_name["D"], tensors_by_name["delta_bias"] = torch.randn(2, dim, dtype=dtype, device=device)
    return [tensors_by_name[name].detach().requires_grad_() for name in NAMES]


def values_and_gradients(backend, inputs, weight, present=NAMES, softplus=True):
    """y, last state and the gradient of sum(y * weight) for each input that is present."""
    given = {name: x if name in present else None for name, x in zip(NAMES, inputs, strict=True)}
    if not softplus:  # without softplus, negative step sizes would make states grow without bound
        for name in {"delta", "delta_bias"} & set(present):
            given[name] = given[name].detach().abs().requires_grad_()
    y, last_state = selective_scan(**given, delta_softplus=softplus, return_last_state=True, backend=backend)
    present_inputs = [x for x in given.values() if x is not None]
    return y, last_state, torch.autograd.grad((y * weight).sum(), present_inputs)


@pytest.mark.parametrize("backend", SCANS)
def test_golden_values_and_gradients(backend):
    data = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "selective_scan.npz").items()}
    inputs = [data[name].requires_grad_() for name in NAMES]
    y, last_state, gradients = values_and_gradients(backend, inputs, data["loss_weight"])
    torch.testing.assert_close(y, data["y"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last_state, data["last_state"], rtol=1e-5, atol=1e-5)
    for name, gradient in zip(NAMES, gradients, strict=True):
        torch.testing.assert_close(gradient, data[f"grad_{name}"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", SCANS)
@pytest.mark.parametrize("softplus", [True, False])
def test_gradients(backend, softplus):
    torch.manual_seed(0)
    inputs = arguments(2, 3, 5, 2, torch.float64)
    if not softplus:
        inputs[1] = inputs[1].detach().abs().requires_grad_()
    assert torch.autograd.gradcheck(lambda *args: selective_scan(*args, softplus, backend=backend), inputs)


@pytest.mark.parametrize("backend", FAST_SCANS)
@settings(max_examples=40, deadline=None)
@given(
    batch_size=st.integers(1, 5),
    dim=st.integers(1, 70),
    length=st.integers(1, 37),
    state=st.integers(1, 17),
    absent=st.sets(st.sampled_from(["D", "z", "delta_bias"])),
    softplus=st.booleans(),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_backends_agree(backend, batch_size, dim, length, state, absent, softplus, channels_last, seed):
    torch.manual_seed(seed)
    inputs = arguments(batch_size, dim, length, state, channels_last=channels_last)
    weight = torch.randn(batch_size, dim, length)
    present = [name for name in NAMES if name not in absent]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    results = []
    for name, tensors, loss_weight in (
        (backend, inputs, weight),
        ("reference", inputs, weight),
        ("reference", exact, weight.double()),
    ):
        y, last_state, gradients = values_and_gradients(name, tensors, loss_weight, present, softplus)
        results.append([y, last_state, *gradients])
    for ours, theirs, truth in zip(*results, strict=True):
        # Rounding errors of sums over tokens and batch scale with their largest terms, also in the reference.
        tolerance = 1e-5 * (1 + truth.abs().max().item()) + 4 * (theirs - truth).abs().max().item()
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=tolerance)


@pytest.mark.parametrize("backend", SCANS)
@pytest.mark.parametrize("rank", [1, 3, 40])
def test_low_rank_step_sizes_are_projected(backend, rank):
    torch.manual_seed(0)
    u, _, *others = arguments(2, 5, 4, 3, torch.float64)
    low = torch.randn(2, 4, rank, dtype=torch.float64).mT.requires_grad_()
    delta_proj = torch.randn(5, rank, dtype=torch.float64, requires_grad=True)
    y = selective_scan(u, low, *others, True, delta_proj=delta_proj, backend=backend)
    torch.testing.assert_close(y, selective_scan(u, delta_proj @ low, *others, True, backend="reference"))
    assert torch.autograd.gradcheck(
        lambda low, delta_proj: selective_scan(u, low, *others, True, delta_proj=delta_proj, backend=backend),
        (low, delta_proj),
    )


@pytest.mark.parametrize("backend", FAST_SCANS)
def test_threads_change_nothing(backend, monkeypatch):
    torch.manual_seed(0)
    inputs, weight = arguments(7, 16, 5, 4), torch.randn(7, 16, 5)
    monkeypatch.setattr(numba_support, "WORK_PER_THREAD", 1)
    results = []
    threads = torch.get_num_threads()
    for number in (1, 3):
        torch.set_num_threads(number)
        y, last_state, gradients = values_and_gradients(backend, inputs, weight)
        results.append([y, last_state, *gradients])
    torch.set_num_threads(threads)
    for one, three in zip(*results, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", SCANS)
def test_extreme_steps_and_decays_stay_finite(backend):
    torch.manual_seed(0)
    inputs = arguments(2, 4, 9, 3)
    inputs[1] = (200 * torch.randn(2, 4, 9)).requires_grad_()  # steps from 0 to the bound
    inputs[2] = (-torch.logspace(-30, 20, 12).view(4, 3)).requires_grad_()  # from no decay to immediate decay
    inputs[0] = (1e6 * inputs[0].detach()).requires_grad_()
    y, last_state, gradients = values_and_gradients(backend, inputs, torch.ones(2, 4, 9))
    assert all(x.isfinite().all() for x in (y, last_state, *gradients))
    steps = F.softplus(inputs[1] + inputs[7].unsqueeze(-1)).clamp(max=MAX_DELTA)
    assert steps.max() == MAX_DELTA
    assert (gradients[1][steps == MAX_DELTA] == 0).all()


@pytest.mark.parametrize("backend", CAUSAL_CONV1D.available())
@pytest.mark.parametrize("activation", ["silu", None])
@pytest.mark.parametrize("width", [1, 4])
def test_the_convolution(backend, activation, width):
    torch.manual_seed(0)
    x = torch.randn(3, 7, 5, dtype=torch.float64).mT.requires_grad_()
    weight = torch.randn(5, width, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    y = causal_conv1d(x, weight, bias, activation, backend=backend)
    for t in range(7):
        past = x[..., max(0, t + 1 - width) : t + 1]
        expected = (past * weight[:, width - past.shape[-1] :]).sum(-1) + bias
        expected = F.silu(expected) if activation else expected
        torch.testing.assert_close(y[..., t], expected)
    arguments = (x, weight, bias)
    assert torch.autograd.gradcheck(lambda *args: causal_conv1d(*args, activation, backend=backend), arguments)
    assert torch.autograd.gradcheck(lambda *args: causal_conv1d(*args, None, activation, backend=backend), (x, weight))


def test_choice_is_logged_once_with_its_reason(caplog):
    operation = backends.Operation("scan", list(SELECTIVE_SCAN.backends.values()))
    with caplog.at_level(logging.INFO, logger="rllib_seqmarl"):
        for _ in range(2):
            operation.choose("auto", torch.zeros(1))
    assert len(caplog.messages) == 1
    assert "scan on cpu uses backend" in caplog.text
    assert "mamba-ssm is not used: its kernels are for CUDA, but the tensors are on cpu" in caplog.text


def test_without_numba_plain_torch_is_used_with_a_warning(caplog, monkeypatch):
    monkeypatch.setattr(numba_support, "HAS_NUMBA", False)
    operation = backends.Operation("scan", list(SELECTIVE_SCAN.backends.values()))
    with caplog.at_level(logging.WARNING, logger="rllib_seqmarl"):
        scan = operation.choose("auto", torch.zeros(1))
    assert "numba is not installed; `pip install numba`" in caplog.text
    inputs = arguments(1, 2, 3, 2)
    expected = selective_scan(*inputs, True, backend="reference")
    assert torch.equal(scan(*inputs, True, None, None, None)[0], expected)
    with pytest.raises(ValueError, match="backend='numba' of scan cannot run here: numba is not installed; `pip"):
        operation.choose("numba", torch.zeros(1))


def test_broken_libraries_are_treated_as_missing(caplog):
    def broken():
        raise ImportError("built for another numpy")

    fast = backends.Backend("fast", broken, lambda device, dtype: None, "fast")
    operation = backends.Operation("scan", [fast, SELECTIVE_SCAN.backends["reference"]])
    with caplog.at_level(logging.WARNING, logger="rllib_seqmarl"):
        assert operation.choose("auto", torch.zeros(1)) is operation.reference
    assert "fast is not used: it cannot be loaded (ImportError: built for another numpy)" in caplog.text
    with pytest.raises(ImportError):
        operation.choose("fast", torch.zeros(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_float32(dtype):
    torch.manual_seed(0)
    exact = [x.detach() for x in arguments(2, 6, 256, 4)]
    exact[0] = 50 * exact[0]
    inputs = [x.to(dtype) for x in exact]
    y = selective_scan(*inputs, True)
    assert y.dtype == dtype
    expected = selective_scan(*(x.float() for x in inputs), True)
    torch.testing.assert_close(y, expected.to(dtype), rtol=1e-2, atol=1e-2)


def test_mixed_dtypes_are_promoted_to_the_widest():
    inputs = [x.detach() for x in arguments(2, 4, 5, 3)]
    mixed = [x.bfloat16() if name in ("u", "B") else x for name, x in zip(NAMES, inputs, strict=True)]
    y = selective_scan(*mixed, True)
    torch.testing.assert_close(y, selective_scan(*(x.float() for x in mixed), True))


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("mamba-ssm", "cannot run here: its kernels are for CUDA, .* set backend='auto'"),
        (
            "numbra",
            "'numbra' is not a backend of selective_scan. Did you mean 'numba'.* Choose one of auto, mamba-ssm, numba",
        ),
    ],
)
def test_unavailable_backends_are_rejected_with_a_remedy(backend, message):
    with pytest.raises(ValueError, match=message):
        selective_scan(*arguments(1, 2, 3, 2), backend=backend)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"weight must have shape \(4, 2\) with x \(1, 4, 3\), not \(2, 2\)"):
        causal_conv1d(torch.randn(1, 4, 3), torch.randn(2, 2))
    inputs = arguments(2, 4, 6, 3)
    inputs[3] = inputs[3].mT
    with pytest.raises(ValueError, match=r"B must have shape \(2, 3, 6\) with u \(2, 4, 6\), not \(2, 6, 3\)"):
        selective_scan(*inputs)


@needs_cuda
@pytest.mark.parametrize(("dim", "width"), [(64, 4), (6, 4), (64, 1), (64, 7)])
def test_on_cuda_the_convolution_agrees_with_the_reference(dim, width):
    x, weight, bias = torch.randn(3, 9, dim).mT, torch.randn(dim, width), torch.randn(dim)
    y = causal_conv1d(x.cuda(), weight.cuda(), bias.cuda(), "silu")
    torch.testing.assert_close(y.cpu(), causal_conv1d(x, weight, bias, "silu"), rtol=1e-4, atol=1e-4)


@needs_cuda
@pytest.mark.parametrize("backend", SELECTIVE_SCAN.available("cuda") if torch.cuda.is_available() else ["mamba-ssm"])
def test_on_cuda_backends_agree_with_the_reference(backend):
    torch.manual_seed(0)
    for sizes in [(1, 64, 1, 16), (5, 128, 33, 16), (800, 128, 8, 16)]:
        inputs, weight = arguments(*sizes, device="cuda"), torch.randn(sizes[0], sizes[1], sizes[2], device="cuda")
        y, last_state, gradients = values_and_gradients(backend, inputs, weight)
        expected = values_and_gradients("reference", inputs, weight)
        for ours, theirs in zip([y, last_state, *gradients], [*expected[:2], *expected[2]], strict=True):
            scale = theirs.abs().max().item() + 1.0
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * scale)
