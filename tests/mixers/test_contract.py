"""The mixer contract, for every mixer in the registry: step-by-step decoding equals the parallel pass."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_seqmarl.mixers import MIXERS, CausalMixer, Mixer, MixerShape, PostNormMixers, PreNormMixers
from rllib_seqmarl.mixers.mamba import MambaOptions
from rllib_seqmarl.mixers.rwkv6 import RWKV6Options
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


CAUSAL = causal_mixers()
ENCODERS = {name: mixers.encoder for name, mixers in MIXERS.items() if isinstance(mixers, PostNormMixers)}
# (d, heads); attention folds weights up to a width of 128
SHAPES = st.sampled_from([(4, 1), (8, 2), (6, 3), (8, 8), (132, 1)])


def build(factory: Factory, d: int, n_head: int) -> Mixer:
    """A mixer in float64 with weights far from their small initial values."""
    mixer = factory(MixerShape(embed_dim=d, n_head=n_head)).double()
    for parameter in mixer.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
    return mixer


@pytest.mark.parametrize("name", CAUSAL)
@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 4), shape=SHAPES, seed=st.integers(0, 2**31))
@torch.no_grad()
def test_steps_equal_the_parallel_pass(name, n, batch_size, shape, seed):
    torch.manual_seed(seed)
    mixer = build(CAUSAL[name], *shape)
    assert isinstance(mixer, CausalMixer)
    x, context = torch.randn(2, batch_size, n, shape[0], dtype=torch.float64)
    state = mixer.initial_state(batch_size)
    outputs = []
    for t, piece in enumerate(mixer.split_context(context)):
        y, state = mixer.step(x[:, t], state, piece)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, dim=1), mixer(x, context), rtol=0, atol=1e-10)


OPTIONS = {
    "mamba": [MambaOptions(d_state=1, d_conv=1, expand=1, dt_rank=1), MambaOptions(d_state=5, d_conv=3, dt_rank=40)],
    "rwkv6": [RWKV6Options(mix_rank=1, decay_rank=3)],
}


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("backend", ["auto", "reference"])
@torch.no_grad()
def test_steps_equal_the_parallel_pass_with_other_options_layers_and_backends(name, backend):
    torch.manual_seed(0)
    for options in OPTIONS.get(name.split("/")[0], [None]):
        shape = MixerShape(embed_dim=6, n_head=2, layer=1, n_layer=3, options=options, backend=backend)
        mixer = CAUSAL[name](shape).double()
        x, context = torch.randn(2, 3, 9, 6, dtype=torch.float64)
        state = mixer.initial_state(3)
        outputs = []
        for t, piece in enumerate(mixer.split_context(context)):
            y, state = mixer.step(x[:, t], state, piece)
            outputs.append(y.clone())
        torch.testing.assert_close(torch.stack(outputs, dim=1), mixer(x, context), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_copied_state_is_independent(name):
    """As needed for a search over continuations."""
    torch.manual_seed(0)
    mixer = build(CAUSAL[name], 8, 2)
    x, context = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    pieces = mixer.split_context(context)
    state = mixer.initial_state(3)
    for t in range(2):
        _, state = mixer.step(x[:, t], state, pieces[t])
    copied = deepcopy(state)
    expected = mixer.step(x[:, 2], state, pieces[2])[0].clone()
    mixer.step(x[:, 3], state, pieces[3])
    torch.testing.assert_close(mixer.step(x[:, 2], copied, pieces[2])[0], expected)


@pytest.mark.parametrize("name", MIXERS)
def test_autocast(name):
    torch.manual_seed(0)
    config = NetworkConfig(
        5, ActionSpec("discrete", (3,)), n_head=2, embed_dim=16, encoder_mixer=name, decoder_mixer=name
    )
    network = SequencePolicy(config)
    obs = torch.randn(4, 6, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actions, log_probs, _ = network.act(obs)
        again, _, values = network.evaluate(obs, actions)
        (again.sum() + values.sum()).backward()
    torch.testing.assert_close(log_probs.float(), again.float(), rtol=0.05, atol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_mixer_depends_on_predecessors_only(name):
    torch.manual_seed(0)
    mixer = build(CAUSAL[name], 8, 2)
    x = torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True)
    y = mixer(x, torch.randn(1, 5, 8, dtype=torch.float64))
    for t in range(5):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        assert gradient[0, t].any() and not gradient[0, t + 1 :].any()


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_mixer_depends_on_the_whole_team(name):
    torch.manual_seed(0)
    mixer = build(ENCODERS[name], 8, 2)
    x = torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True)
    for t in range(5):
        (gradient,) = torch.autograd.grad(mixer(x)[0, t].sum(), x)
        assert (gradient[0].abs().amax(-1) > 0).all()
