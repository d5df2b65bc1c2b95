"""Compiled steps equal plain torch steps, for every causal mixer."""

import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from test_contract import CAUSAL, OPTIONS, build

from rllib_seqmarl.mixers import MixerShape
from rllib_seqmarl.ops import numba_support
from rllib_seqmarl.ops.decoding.step import CompiledStep

pytest.importorskip("numba")

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}


def run_steps(mixer, x, context):
    """Run all steps; return the outputs and the final state."""
    state = mixer.initial_state(len(x))
    outputs = []
    for t, piece in enumerate(mixer.split_context(context)):
        y, state = mixer.step(x[:, t], state, piece)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def with_backend(backend, mixer):
    """A copy of the mixer that runs on the given backend."""
    mixer = deepcopy(mixer)
    for module in mixer.modules():
        if hasattr(module, "backend"):
            module.backend = backend
    return mixer


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("d", "n_head"), [(64, 1), (6, 3), (20, 2), (72, 8), (132, 1)])
@torch.no_grad()
def test_compiled_steps_equal_torch_steps(name, dtype, d, n_head):
    torch.manual_seed(0)
    for batch_size, n in ((1, 3), (5, 19), (13, 9)):
        mixer = build(CAUSAL[name], d, n_head).to(dtype)
        x, context = torch.randn(2, batch_size, n, d, dtype=dtype)
        actual, state = run_steps(with_backend("numba", mixer), x, context)
        expected, _ = run_steps(with_backend("reference", mixer), x, context)
        assert isinstance(state, CompiledStep)
        scale = expected.abs().max().clamp(min=1.0).item()
        torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCES[dtype] * scale)


@pytest.mark.parametrize("name", [name for name in CAUSAL if name.split("/")[0] in OPTIONS])
@torch.no_grad()
def test_compiled_steps_equal_torch_steps_with_other_options(name):
    torch.manual_seed(0)
    for options in OPTIONS[name.split("/")[0]]:
        mixer = CAUSAL[name](MixerShape(embed_dim=20, n_head=2, layer=1, n_layer=2, options=options)).double()
        x, context = torch.randn(2, 11, 9, 20, dtype=torch.float64)
        actual, expected = (
            run_steps(with_backend(backend, mixer), x, context)[0] for backend in ("numba", "reference")
        )
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_result_does_not_depend_on_threads(name, monkeypatch):
    torch.manual_seed(0)
    mixer = build(CAUSAL[name], 12, 2)
    x, context = torch.randn(2, 17, 10, 12, dtype=torch.float64)
    threads, shares = torch.get_num_threads(), []
    submit = numba_support.ThreadPoolExecutor.submit
    monkeypatch.setattr(numba_support, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(
        numba_support.ThreadPoolExecutor, "submit", lambda *args: shares.append(args[2:4]) or submit(*args)
    )
    try:
        torch.set_num_threads(3)
        actual, _ = run_steps(mixer, x, context)
    finally:
        torch.set_num_threads(threads)
    assert shares[:3] == [(0, 5), (5, 11), (11, 17)]
    torch.testing.assert_close(actual, run_steps(with_backend("reference", mixer), x, context)[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_state_can_be_pickled(name):
    torch.manual_seed(0)
    mixer = build(CAUSAL[name], 8, 2)
    x, context = torch.randn(2, 3, 12, 8, dtype=torch.float64)
    pieces = mixer.split_context(context)
    state = mixer.initial_state(3)
    for t in range(11):
        _, state = mixer.step(x[:, t], state, pieces[t])
    restored = pickle.loads(pickle.dumps(state))
    expected = mixer.step(x[:, 11], state, pieces[11])[0]
    torch.testing.assert_close(mixer.step(x[:, 11], restored, pieces[11])[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_output_is_not_overwritten(name):
    """The next step does not overwrite the output of the previous one."""
    torch.manual_seed(0)
    mixer = build(CAUSAL[name], 8, 2)
    state, piece = mixer.initial_state(2), torch.randn(2, 8, dtype=torch.float64)
    pieces = mixer.split_context(torch.randn(2, 2, 8, dtype=torch.float64))
    first, state = mixer.step(piece, state, pieces[0])
    kept = first.clone()
    mixer.step(piece + 1, state, pieces[1])
    assert torch.equal(first, kept)


@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_array_inputs_give_array_outputs(name):
    torch.manual_seed(0)
    mixer = build(CAUSAL[name], 8, 2)
    x, context = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    expected, _ = run_steps(mixer, x, context)
    state, pieces = mixer.initial_state(3), mixer.split_context(context)
    for t in range(5):
        y, state = mixer.step(x[:, t].contiguous().numpy(), state, pieces[t])
        assert isinstance(y, np.ndarray)
        torch.testing.assert_close(torch.from_numpy(y), expected[:, t], rtol=0, atol=0)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_gradients_are_not_lost_silently(name, backend):
    """A step either propagates gradients or raises."""
    torch.manual_seed(0)
    mixer = with_backend(backend, build(CAUSAL[name], 8, 2))
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        pieces = mixer.split_context(torch.randn(3, 1, 8, dtype=torch.float64))
    try:
        y, _ = mixer.step(x, mixer.initial_state(3), pieces[0])
    except RuntimeError as error:
        assert "`torch.no_grad()`" in str(error)
    else:
        assert backend == "reference" and y.requires_grad
