"""The invariant everything leans on, for every mixer in the registry: one by one equals all at once."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_seqmarl.mixers import MIXERS, Added, CausalMixer, Crossed, Mixer, MixerShape

Factory = Callable[[MixerShape], Mixer]


def causal_mixers() -> dict[str, Factory]:
    found: dict[str, Factory] = {}
    for name, mixers in MIXERS.items():
        match mixers:
            case Crossed(decoder=decoder, cross=cross):
                found |= {f"{name}/self": decoder, f"{name}/cross": cross}
            case Added(time=time, channel=channel):
                found |= {f"{name}/time": time, f"{name}/channel": channel}
    return found


CAUSAL = causal_mixers()
ENCODERS = {name: mixers.encoder for name, mixers in MIXERS.items() if isinstance(mixers, Crossed)}
# (d, heads); a width beyond 128 is where attention stops folding weights
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
def test_steps_equal_the_whole_sequence(name, n, batch_size, shape, seed):
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


@pytest.mark.parametrize("name", CAUSAL)
def test_an_agent_sees_itself_and_its_predecessors_only(name):
    torch.manual_seed(0)
    mixer = build(CAUSAL[name], 8, 2)
    x = torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True)
    y = mixer(x, torch.randn(1, 5, 8, dtype=torch.float64))
    for t in range(5):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        assert gradient[0, t].any() and not gradient[0, t + 1 :].any()


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_mixer_sees_the_whole_team(name):
    torch.manual_seed(0)
    mixer = build(ENCODERS[name], 8, 2)
    x = torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True)
    for t in range(5):
        (gradient,) = torch.autograd.grad(mixer(x)[0, t].sum(), x)
        assert (gradient[0].abs().amax(-1) > 0).all()
