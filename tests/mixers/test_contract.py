"""The mixer contract, for every mixer in the registry: however a sequence is cut, results are the same."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_map

from rllib_seqmarl.mixers import MIXERS, CausalMixer, Mixer, MixerShape, PostNormMixers, PreNormMixers
from rllib_seqmarl.mixers.along_time import TIME_MIXERS
from rllib_seqmarl.mixers.base import reset_state
from rllib_seqmarl.mixers.gru import GRU, GRUOptions
from rllib_seqmarl.mixers.mamba import MambaOptions
from rllib_seqmarl.mixers.retention import RetentionOptions
from rllib_seqmarl.mixers.rwkv6 import RWKV6Options
from rllib_seqmarl.mixers.windowed_attention import WindowedAttention, WindowOptions
from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy

Factory = Callable[[MixerShape], Mixer]


def causal_mixers() -> dict[str, Factory]:
    mixers_by_name: dict[str, Factory] = {}
    for name, mixers in MIXERS.items():
        match mixers:
            case PostNormMixers(decoder=decoder, cross=cross):
                mixers_by_name |= {f"{name}/self": decoder, f"{name}/cross": cross}
            case PreNormMixers(time=time, channel=channel):
                mixers_by_name |= {f"{name}/time": time, f"{name}/channel": channel}
    return mixers_by_name


CAUSAL = causal_mixers() | {f"{name}/memory": mixers.mixer for name, mixers in TIME_MIXERS.items()}
CAUSAL["gru/layers"] = lambda shape: GRU(replace(shape, options=GRUOptions(num_layers=2)))
CAUSAL["attention/window"] = lambda shape: WindowedAttention(replace(shape, options=WindowOptions(window=3)))
ENCODERS = {name: mixers.encoder for name, mixers in MIXERS.items() if isinstance(mixers, PostNormMixers)}
# (d, heads); attention folds weights up to a width of 128
SHAPES = [(4, 1), (8, 2), (6, 3), (8, 8), (132, 1)]
# The norm of retention needs two channels or more in each of n_head groups of a head.
SHAPES_OF = {"retention": [(4, 1), (8, 2), (27, 3), (132, 1)]}


def build(factory: Factory, d: int, n_head: int, layer: int = 0) -> Mixer:
    """A mixer in float64 with weights far from their small initial values."""
    mixer = factory(MixerShape(embed_dim=d, n_head=n_head, layer=layer, n_layer=2)).double()
    for parameter in mixer.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
    return mixer


def run_windows(mixer, x, context, lengths, state=None, resets=None):
    """Outputs and the last state of windows of these lengths."""
    outputs, first = [], 0
    for length in lengths:
        at = slice(first, first + length)
        y, state = mixer(x[:, at], context[:, at], state, None if resets is None else resets[:, at])
        outputs.append(y)
        first += length
    return torch.cat(outputs, dim=1), state


def run_steps(mixer, x, context, state, resets):
    """Outputs and the last state of single steps, with the state set to zeros where ``resets`` says so."""
    outputs = []
    for t in range(x.shape[1]):
        y, state = mixer.step(x[:, t], reset_state(state, resets[:, t]), context[:, t])
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


@pytest.mark.parametrize("name", CAUSAL)
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), batch_size=st.integers(1, 4), data=st.data(),
    share=st.sampled_from([0.0, 0.2, 1.0]), layer=st.integers(0, 1), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_windows_and_steps_are_equal_for_any_cuts_and_resets(name, lengths, batch_size, data, share, layer, seed):
    """Outputs, gradients of all inputs and parameters, and what the state means for the future."""
    shape = data.draw(st.sampled_from(SHAPES_OF.get(name.split("/")[0], SHAPES)))
    torch.manual_seed(seed)
    mixer = build(CAUSAL[name], *shape, layer=layer)
    assert isinstance(mixer, CausalMixer)
    n = sum(lengths)
    x, context, before, next_x = torch.randn(4, batch_size, n, shape[0], dtype=torch.float64).requires_grad_().unbind()
    resets = torch.rand(batch_size, n) < share
    results = []
    for run in ("window", "windows", "steps"):
        _, state = mixer(before, before, mixer.initial_state(batch_size))
        if run == "steps":
            y, state = run_steps(mixer, x, context, state, resets)
        else:
            y, state = run_windows(mixer, x, context, lengths if run == "windows" else [n], state, resets)
        y = torch.cat([y, mixer(next_x, context, state)[0]], dim=1)
        inputs = [x, context, before, *mixer.parameters()]
        torch.manual_seed(1)
        results.append([y, *torch.autograd.grad((y * torch.randn_like(y)).sum(), inputs, materialize_grads=True)])
    for others in results[1:]:
        for actual, expected in zip(others, results[0], strict=True):
            scale = max(1.0, expected.abs().max().item())
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("name", CAUSAL)
def test_without_a_state_a_window_starts_from_zeros_and_returns_none(name):
    torch.manual_seed(0)
    mixer = build(CAUSAL[name], 8, 2)
    x, context = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    for resets in (None, torch.rand(3, 6) < 0.5):
        y, state = mixer(x, context, None, resets)
        assert state is None
        expected, _ = mixer(x, context, mixer.initial_state(3), resets)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


OPTIONS = {
    "mamba": [MambaOptions(d_state=1, d_conv=1, expand=1, dt_rank=1), MambaOptions(d_state=5, d_conv=3, dt_rank=40)],
    "retention": [RetentionOptions(decay_scaling=0.6)],
    "rwkv6": [RWKV6Options(mix_rank=1, decay_rank=3)],
}


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("backend", ["auto", "reference"])
@torch.no_grad()
def test_steps_equal_the_window_with_other_options_and_backends(name, backend):
    torch.manual_seed(0)
    for options in OPTIONS.get(name.split("/")[0], [None]):
        shape = MixerShape(embed_dim=12, n_head=2, layer=1, n_layer=3, options=options, backend=backend)
        mixer = CAUSAL[name](shape).double()
        x, context = torch.randn(2, 3, 9, 12, dtype=torch.float64)
        steps, _ = run_steps(mixer, x, context, mixer.initial_state(3), torch.zeros(3, 9, dtype=torch.bool))
        torch.testing.assert_close(steps, mixer(x, context)[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CAUSAL)
def test_steps_are_pure(name):
    """The given state stays valid, as needed for a search over continuations."""
    torch.manual_seed(0)
    mixer = build(CAUSAL[name], 8, 2)
    x, context = torch.randn(2, 3, 2, 8, dtype=torch.float64)
    _, state = mixer(x, context, mixer.initial_state(3))
    copied = deepcopy(tree_map(torch.Tensor.detach, state))
    first, _ = mixer.step(x[:, 0], state, context[:, 0])
    mixer.step(x[:, 1], state, context[:, 1])
    assert torch.equal(mixer.step(x[:, 0], state, context[:, 0])[0], first)
    assert torch.equal(mixer.step(x[:, 0], copied, context[:, 0])[0], first)


@pytest.mark.parametrize("name", MIXERS)
def test_autocast(name):
    torch.manual_seed(0)
    config = NetworkConfig(
        5, ActionSpec("discrete", (3,)), n_head=2, embed_dim=16, encoder_mixer=name, decoder_mixer=name
    )
    network = SequencePolicy(config)
    obs = {"observations": torch.randn(4, 6, 5)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actions, log_probs, *_ = network.act(obs)
        again, _, values, _ = network.evaluate(obs, actions)
        (again.sum() + values.sum()).backward()
    torch.testing.assert_close(log_probs.float(), again.float(), rtol=0.05, atol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_mixer_depends_on_predecessors_only(name):
    torch.manual_seed(0)
    mixer = build(CAUSAL[name], 8, 2)
    x = torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True)
    y, _ = mixer(x, torch.randn(1, 5, 8, dtype=torch.float64))
    for t in range(5):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        assert gradient[0, t].any() and not gradient[0, t + 1 :].any()


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_mixer_depends_on_the_whole_team(name):
    torch.manual_seed(0)
    mixer = build(ENCODERS[name], 8, 2)
    x = torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True)
    for t in range(5):
        (gradient,) = torch.autograd.grad(mixer(x)[0][0, t].sum(), x)
        assert (gradient[0].abs().amax(-1) > 0).all()
