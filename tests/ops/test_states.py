"""Windows that hand over their states equal the whole sequence, with resets anywhere, on every available backend."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rllib_seqmarl.ops.causal_conv1d import CAUSAL_CONV1D, causal_conv1d
from rllib_seqmarl.ops.retention import RETENTION, retention
from rllib_seqmarl.ops.selective_scan import SELECTIVE_SCAN, selective_scan
from rllib_seqmarl.ops.token_shift import TOKEN_SHIFT, token_shift
from rllib_seqmarl.ops.wkv import WKV4, WKV6, wkv4, wkv6

# Each operation below is a function (tokens, parameters, state, resets, backend) -> (y, state). Tokens and y have the
# axes (batch, length, channels), so that a window is the same slice for all of them.


def scan(tokens, parameters, state, resets, backend):
    (u, delta, B, C, z), (A, D, bias) = [x.mT for x in tokens], parameters
    y, state = selective_scan(
        u, delta, A, B, C, D, z, bias, True, True, initial_state=state, resets=resets, backend=backend
    )
    return y.mT, state


def low_rank_scan(tokens, parameters, state, resets, backend):
    (u, delta, B, C), (A, projection) = [x.mT for x in tokens], parameters
    y, state = selective_scan(
        u, delta, A, B, C, return_last_state=True, delta_softplus=True, initial_state=state, resets=resets,
        delta_proj=projection, backend=backend,
    )  # fmt: skip
    return y.mT, state


def convolution(tokens, parameters, state, resets, backend):
    y, state = causal_conv1d(
        tokens[0].mT, *parameters, "silu", True, initial_state=state, resets=resets, backend=backend
    )  # fmt: skip
    return y.mT, state


def plain_convolution(tokens, parameters, state, resets, backend):
    y, state = causal_conv1d(
        tokens[0].mT, *parameters, return_last_state=True, initial_state=state, resets=resets, backend=backend
    )
    return y.mT, state


def shift(tokens, parameters, state, resets, backend):
    x, *own = tokens
    own = torch.stack(own) if own else None
    y = token_shift(x, *parameters, own, initial_state=state, resets=resets, backend=backend)
    return torch.cat(y, dim=-1), x[:, -1]


def weighted_average(tokens, parameters, state, resets, backend):
    if state is not None:  # as numbers without units, so that their gradients are defined
        state = torch.stack([state[:, 0], state[:, 1], torch.zeros_like(state[:, 1])], dim=1)
    w, u = parameters
    y, state = wkv4(-w.exp(), u, *tokens, True, initial_state=state, resets=resets, backend=backend)
    return y, state[:, :2] * state[:, 2:].exp()


def matrix_state(tokens, parameters, state, resets, backend):
    r, k, v, *w = (x.unflatten(-1, (HEADS, -1)) for x in tokens)
    *constant, u = parameters
    w = -(w or constant)[0].exp()
    y, state = wkv6(r, k, v, w, u, True, initial_state=state, resets=resets, backend=backend)
    return y.flatten(2), state


def retained(n_agents, causal, heads=2, d_k=2, d_v=3):
    """Retention with time steps as positions; the tokens of a step's agents are one after another in its channels."""

    def run(tokens, parameters, state, resets, backend):
        q, k, v = (x.reshape(len(x), x.shape[1] * n_agents, heads, -1) for x in tokens)
        y, state = retention(
            q, k, v, torch.tensor([0.5, 0.9])[:heads], True, n_agents=n_agents, causal=causal, initial_state=state,
            resets=resets, backend=backend,
        )  # fmt: skip
        return y.reshape(*tokens[2].shape), state

    return RETENTION, run, tuple(d * heads * n_agents for d in (d_k, d_k, d_v)), (), (heads, d_k, d_v)


DIM, STATE, WIDTH, HEADS = 6, 3, 4, 2
CASES = {  # operation, function, channels of tokens, shapes of parameters and of the state
    "scan": (SELECTIVE_SCAN, scan, (DIM, DIM, STATE, STATE, DIM), ((DIM, STATE), (DIM,), (DIM,)), (DIM, STATE)),
    "low-rank scan": (SELECTIVE_SCAN, low_rank_scan, (DIM, 2, STATE, STATE), ((DIM, STATE), (DIM, 2)), (DIM, STATE)),
    "conv": (CAUSAL_CONV1D, convolution, (DIM,), ((DIM, WIDTH), (DIM,)), (DIM, WIDTH - 1)),
    "plain conv": (CAUSAL_CONV1D, plain_convolution, (DIM,), ((DIM, 1),), (DIM, 0)),
    "shift": (TOKEN_SHIFT, shift, (DIM,), ((2, DIM),), (DIM,)),
    "own shift": (TOKEN_SHIFT, shift, (DIM, DIM, DIM), ((2, DIM),), (DIM,)),
    "wkv4": (WKV4, weighted_average, (DIM, DIM), ((DIM,), (DIM,)), (2, DIM)),
    "wkv6": (WKV6, matrix_state, (DIM,) * 4, ((HEADS, 3),), (HEADS, 3, 3)),
    "wkv5": (WKV6, matrix_state, (DIM,) * 3, ((HEADS, 3), (HEADS, 3)), (HEADS, 3, 3)),
    "retention": retained(1, causal=True),
    "retention of a causal team": retained(3, causal=True),
    "retention of a team": retained(3, causal=False),
    "retention of a large causal team": retained(35, True, 1, 1, 1),  # a chunk is smaller than a time step
    "retention of a large team": retained(35, False, 1, 1, 1),
}
BACKENDS = [(name, backend) for name, case in CASES.items() for backend in case[0].available()]


def random_inputs(name, batch_size, length, seed=0):
    """Tokens, parameters and a state that require gradients."""
    _, _, channels, shapes, state_shape = CASES[name]
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    tokens, parameters = [draw(batch_size, length, c) for c in channels], [draw(*shape) for shape in shapes]
    if "scan" in name:
        parameters[0] = -parameters[0].exp()
    state = draw(batch_size, *state_shape)
    if name == "wkv4":  # a weight is a sum of exponentials
        state[:, 1] = state[:, 1].exp()
    return [[x.requires_grad_() for x in tokens], [x.requires_grad_() for x in parameters], state.requires_grad_()]


def in_windows(name, cuts, tokens, parameters, state, resets, backend):
    """Run windows one after another, handing over the state; a reset between windows multiplies it by zero."""
    outputs = []
    for begin, end in zip([0, *cuts], [*cuts, tokens[0].shape[1]], strict=True):
        first = resets[:, begin] if resets is not None else torch.zeros(len(tokens[0]), dtype=torch.bool)
        if state is not None:
            state = state * ~first.view(-1, *[1] * (state.dim() - 1))
        inner = None if resets is None else resets[:, begin:end].clone().index_fill_(1, torch.tensor(0), False)
        y, state = CASES[name][1]([x[:, begin:end] for x in tokens], parameters, state, inner, backend)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def with_gradients(y: Tensor, state: Tensor, inputs):
    """y, state, and the gradients of a fixed linear combination of both."""
    generator = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in (y, state))
    return [y, state, *torch.autograd.grad(loss, inputs, materialize_grads=True)]


@pytest.mark.parametrize(("name", "backend"), BACKENDS)
@settings(max_examples=20, deadline=None)
@given(
    data=st.data(),
    batch_size=st.integers(1, 3),
    length=st.integers(1, 8) | st.integers(60, 70),  # with three chunks in wkv6
    has_state=st.booleans(),
)
def test_windows_equal_the_whole_sequence(name, backend, data, batch_size, length, has_state):
    inputs = random_inputs(name, batch_size, length, data.draw(st.integers(0, 1000)))
    tokens, parameters, state = inputs
    positions = st.sets(st.integers(0, batch_size * length - 1), max_size=6)
    resets = torch.zeros(batch_size, length, dtype=torch.bool)
    resets.view(-1)[list(data.draw(positions))] = True
    cuts = sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=3))) if length > 1 else []
    leaves = [*tokens, *parameters, state]
    start = state if has_state else None

    def run(cuts, backend, resets=resets):
        return with_gradients(*in_windows(name, cuts, tokens, parameters, start, resets, backend), leaves)

    # One position after another, in plain torch and without resets within windows, is the definition.
    expected = run(range(1, length), "reference")
    for actual in (
        run(range(1, length), backend),
        run(cuts, backend),
        with_gradients(*CASES[name][1](tokens, parameters, start, resets, backend), leaves),
    ):
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "backend"), BACKENDS)
@pytest.mark.parametrize("resets", [None, [[0, 0, 1, 0], [1, 0, 0, 1]]])
def test_gradients(name, backend, resets):
    tokens, parameters, state = random_inputs(name, 2, 4)
    resets = None if resets is None else torch.tensor(resets, dtype=torch.bool)

    def run(*inputs):
        *leaves, state = inputs
        return CASES[name][1](leaves[: len(tokens)], leaves[len(tokens) :], state, resets, backend)

    assert torch.autograd.gradcheck(run, (*tokens, *parameters, state))


@pytest.mark.parametrize(("name", "backend"), BACKENDS)
def test_zeros_are_the_state_before_the_first_token(name, backend):
    tokens, parameters, state = random_inputs(name, 3, 5)
    function = CASES[name][1]
    expected, _ = function(tokens, parameters, None, None, backend)
    torch.testing.assert_close(
        function(tokens, parameters, torch.zeros_like(state), None, backend)[0], expected, rtol=0, atol=1e-12
    )
    resets = torch.zeros(3, 5, dtype=torch.bool).index_fill_(1, torch.tensor(0), True)
    torch.testing.assert_close(function(tokens, parameters, state, resets, backend)[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", WKV4.available())
def test_exponents_of_empty_states_do_not_count(backend):
    torch.manual_seed(0)
    w, u, k, v = (
        x.detach() for x in (-torch.rand(2), torch.randn(2), torch.randn(1, 3, 2) - 1e4, torch.randn(1, 3, 2))
    )
    expected = wkv4(w, u, k, v, backend=backend)
    state = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [0.0, 1e4]]])  # far above the keys
    torch.testing.assert_close(wkv4(w, u, k, v, initial_state=state, backend=backend), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["scan", "wkv4", "wkv6", "retention"])
def test_states_of_half_precision_inputs_are_float32(name, dtype):
    tokens, parameters, state = random_inputs(name, 2, 3)
    tokens, parameters = ([x.detach().to(dtype) for x in group] for group in (tokens, parameters))
    y, last_state = CASES[name][1](tokens, parameters, state.detach().float(), None, "auto")
    assert y.dtype == dtype
    assert last_state.dtype == torch.float32


@pytest.mark.parametrize("name", ["scan", "conv", "shift", "wkv4", "wkv6", "retention"])
def test_wrong_shapes_are_named(name):
    tokens, parameters, state = random_inputs(name, 3, 5)
    with pytest.raises(ValueError, match=r"initial_state must have shape \(3, .* not \(2, "):
        CASES[name][1](tokens, parameters, state[:2], None, "auto")
    with pytest.raises(ValueError, match=r"resets must have shape \(3, 5\) with .* not \(3, 4\)"):
        CASES[name][1](tokens, parameters, state, torch.zeros(3, 4, dtype=torch.bool), "auto")
