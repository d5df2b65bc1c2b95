"""The RWKV mixers agree with independent implementations of RWKV-4, 5 and 6."""

import numpy as np
import pytest
import torch

from rllib_seqmarl.mixers import MIXERS, MixerShape
from rllib_seqmarl.mixers.rwkv4 import RWKV4ChannelMix, RWKV4TimeMix
from rllib_seqmarl.mixers.rwkv5 import RWKV5TimeMix
from rllib_seqmarl.mixers.rwkv6 import RWKV6Options, RWKV6TimeMix
from rllib_seqmarl.mixers.rwkv_common import NarrowChannelMix, SquaredReLU
from rllib_seqmarl.ops.wkv import WKV4, WKV6
from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy

VERSIONS = ["rwkv4", "rwkv5", "rwkv6"]


def spread(mixer, scale=0.5):
    """The mixer in float64 with weights far from their small initial values."""
    torch.manual_seed(0)
    mixer = mixer.double()
    for parameter in mixer.parameters():
        parameter.data += scale * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
    return mixer


@pytest.fixture
def transformers_rwkv():
    pytest.importorskip("transformers")
    modeling = pytest.importorskip("transformers.models.rwkv.modeling_rwkv")
    configuration = pytest.importorskip("transformers.models.rwkv.configuration_rwkv")
    return modeling, configuration.RwkvConfig(hidden_size=32, num_hidden_layers=2)


@pytest.mark.parametrize("backend", WKV4.available())
def test_rwkv4_time_mixing_equals_transformers(transformers_rwkv, backend):
    modeling, config = transformers_rwkv
    ours = spread(RWKV4TimeMix(MixerShape(32, layer=1, n_layer=2, backend=backend))).float()
    theirs = modeling.RwkvSelfAttention(config, layer_id=1)
    key, value, receptance = ours.projections.weight.chunk(3)
    names = {"key": key, "value": value, "receptance": receptance, "output": ours.output.weight}
    weights = {f"{name}.weight": weight for name, weight in names.items()}
    weights |= {"time_decay": ours.decay, "time_first": ours.bonus}
    for name, mix in zip(("key", "value", "receptance"), ours.mix, strict=True):
        weights[f"time_mix_{name}"] = (1 - mix).view(1, 1, -1)
    theirs.load_state_dict(weights)
    x = torch.randn(3, 9, 32)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=1e-5, atol=1e-5)


def test_rwkv4_channel_mixing_equals_transformers(transformers_rwkv):
    modeling, config = transformers_rwkv
    ours = spread(RWKV4ChannelMix(MixerShape(32, layer=1, n_layer=2))).float()
    theirs = modeling.RwkvFeedForward(config, layer_id=1)
    weights = {f"{name}.weight": getattr(ours, name).weight for name in ("key", "value", "receptance")}
    for name, mix in zip(("key", "receptance"), ours.mix, strict=True):
        weights[f"time_mix_{name}"] = (1 - mix).view(1, 1, -1)
    theirs.load_state_dict(weights)
    x = torch.randn(3, 9, 32)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=1e-5, atol=1e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Oracle:
    """Time mixing of RWKV-5 and 6 from the equations of arXiv 2404.05892, token by token and team by team."""

    def __init__(self, mixer):
        self.p = {name: value.detach().numpy() for name, value in mixer.named_parameters()}
        self.heads, self.size = mixer.heads
        self.projections = self.p["projections.weight"].reshape(4, -1, self.p["projections.weight"].shape[1])

    def shifted5(self, x, before):
        keep = 1 - self.p["mix"]  # rows: receptance, key, value, gate
        inputs = [keep[i] * x + (1 - keep[i]) * before for i in range(4)]
        return inputs, np.exp(-np.exp(self.p["decay"]))

    def shifted6(self, x, before):
        first = x + (before - x) * self.p["first_mix"][0]
        rank = self.p["mix_up"].shape[1]
        low = np.tanh(self.p["mix_down"] @ first)
        inputs = []
        for i in range(5):  # decay, receptance, key, value, gate
            mix = self.p["mix"][i] + low[i * rank : (i + 1) * rank] @ self.p["mix_up"][i]
            inputs.append(x + (before - x) * mix)
        rate = self.p["decay"] + self.p["decay_up"] @ np.tanh(self.p["decay_down"] @ inputs[0])
        return inputs[1:], np.exp(-np.exp(rate))

    def __call__(self, x, shifted):
        batch_size, n, d = x.shape
        y = np.zeros_like(x)
        for b in range(batch_size):
            states, before = np.zeros((self.heads, self.size, self.size)), np.zeros(d)
            for t in range(n):
                inputs, decay = shifted(x[b, t], before)
                r, k, v, g = (w @ inp for w, inp in zip(self.projections, inputs, strict=True))
                wkv = np.zeros(d)
                for h in range(self.heads):
                    at = slice(h * self.size, (h + 1) * self.size)
                    written = np.outer(k[at], v[at])
                    out = r[at] @ (states[h] + np.diag(self.p["bonus"][h]) @ written)
                    states[h] = np.diag(decay[at]) @ states[h] + written
                    out = out / 8  # RWKV's head_size_divisor
                    out = (out - out.mean()) / np.sqrt(out.var() + 1e-5)
                    wkv[at] = out * self.p["norm.weight"][h] + self.p["norm.bias"][h]
                y[b, t] = self.p["output.weight"] @ (wkv * g * sigmoid(g))
                before = x[b, t]
        return y


@pytest.mark.parametrize("backend", WKV6.available())
@pytest.mark.parametrize("n_head", [1, 4])
def test_rwkv5_time_mixing_equals_the_paper(backend, n_head):
    mixer = spread(RWKV5TimeMix(MixerShape(16, n_head, layer=1, n_layer=3, backend=backend)))
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    oracle = Oracle(mixer)
    np.testing.assert_allclose(mixer(x)[0].detach().numpy(), oracle(x.numpy(), oracle.shifted5), rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", WKV6.available())
@pytest.mark.parametrize("n_head", [1, 4])
def test_rwkv6_time_mixing_equals_the_paper(backend, n_head):
    mixer = spread(RWKV6TimeMix(MixerShape(16, n_head, layer=1, n_layer=3, backend=backend)))
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    oracle = Oracle(mixer)
    np.testing.assert_allclose(mixer(x)[0].detach().numpy(), oracle(x.numpy(), oracle.shifted6), rtol=0, atol=1e-10)


def test_rwkv6_initially_equals_rwkv5_with_constant_shifts_and_decays():
    torch.manual_seed(0)
    mixer6, mixer5 = RWKV6TimeMix(MixerShape(16, 2)), RWKV5TimeMix(MixerShape(16, 2))
    shared = {name: value for name, value in mixer6.state_dict().items() if name in mixer5.state_dict()}
    mixer5.load_state_dict(shared | {"mix": mixer6.mix[1:]})
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(mixer6(x)[0], mixer5(x)[0])
    assert torch.autograd.grad(mixer6(x)[0].square().sum(), mixer6.mix_down)[0].any()  # but they can be learnt


def test_gradient_of_squared_relu():
    x = torch.tensor([-2.0, -0.5, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    assert SquaredReLU.apply(x).tolist() == [0, 0, 0.25, 9]
    assert torch.autograd.gradcheck(SquaredReLU.apply, (x,))


def test_initial_values_equal_rwkv():
    first, last = (RWKV4TimeMix(MixerShape(64, layer=layer, n_layer=3)) for layer in (0, 2))
    for mixer in (first, last):
        assert mixer.decay[0] == -5 and mixer.decay[-1] == 3 and (mixer.decay.diff() > 0).all()
    torch.testing.assert_close(first.decay[1], torch.tensor(-5 + 8 * (1 / 63) ** 0.7))
    torch.testing.assert_close(last.decay[1], torch.tensor(-5 + 8 * (1 / 63) ** 2.0))
    torch.testing.assert_close(first.bonus[:3], np.log(0.3) + torch.tensor([0.0, 0.5, -0.5]))
    # Our mix is the weight of the predecessor, RWKV's that of the token itself.
    torch.testing.assert_close(1 - first.mix[:, 32], torch.tensor([0.5, 0.5, 0.5**0.5]))
    torch.testing.assert_close(
        1 - last.mix[:, 32], torch.tensor([0.5 ** (1 / 3), 0.5 ** (1 / 3) + 0.3, 0.5 ** (1 / 6)])
    )
    matrix = RWKV5TimeMix(MixerShape(64, 4, layer=2, n_layer=3))
    assert matrix.decay[0] == -6 and matrix.decay[-1] == -1
    torch.testing.assert_close(matrix.bonus.flatten()[:3], 1 - torch.arange(3) / 63 + torch.tensor([0.0, 0.1, -0.1]))


@pytest.mark.parametrize(("embed_dim", "hidden"), [(4, 14), (32, 112), (64, 224), (100, 320), (512, 1792)])
def test_width_of_channel_mixing(embed_dim, hidden):
    assert NarrowChannelMix(MixerShape(embed_dim)).key.out_features == hidden
    assert RWKV4ChannelMix(MixerShape(embed_dim)).key.out_features == 4 * embed_dim


def test_ranks_of_rwkv6():
    assert RWKV6Options().ranks(64) == (4, 8)
    assert RWKV6Options().ranks(512) == RWKV6Options().ranks(2048) == (32, 64)
    assert RWKV6TimeMix(MixerShape(64, options=RWKV6Options(mix_rank=3, decay_rank=5))).decay_down.shape == (5, 64)


@pytest.mark.parametrize("key", ["mix_rank", "decay_rank"])
@pytest.mark.parametrize("value", [0, -3, 2.5, True, "many"])
def test_invalid_ranks_are_rejected(key, value):
    with pytest.raises(ValueError, match=f"{key} must be an integer >= 1 or 'auto', not {value!r}"):
        RWKV6Options(**{key: value})


@pytest.mark.parametrize("version", VERSIONS)
def test_every_parameter_has_a_gradient(version):
    torch.manual_seed(0)
    shape = MixerShape(16, 2, layer=1, n_layer=2)
    for factory in (MIXERS[version].time, MIXERS[version].channel):
        mixer = spread(factory(shape))
        x = torch.randn(3, 6, 16, dtype=torch.float64)
        gradients = torch.autograd.grad(mixer(x)[0].square().sum(), list(mixer.parameters()))
        for (name, _), gradient in zip(mixer.named_parameters(), gradients, strict=True):
            assert gradient.isfinite().all() and gradient.any(), name


@pytest.mark.parametrize("version", VERSIONS)
def test_extreme_decays_and_inputs_stay_finite(version):
    torch.manual_seed(0)
    mixer = MIXERS[version].time(MixerShape(16, 2))
    with torch.no_grad():
        mixer.decay.copy_(torch.linspace(-200, 60, 16))
    x = (1e3 * torch.randn(2, 40, 16)).requires_grad_()
    y, _ = mixer(x)
    for result in (y, *torch.autograd.grad(y.sum(), [x, *mixer.parameters()])):
        assert result.isfinite().all()


def value_gradients(version, directions):
    """[i, j]: whether the value of agent i depends on the observation of agent j."""
    torch.manual_seed(0)
    mixers = {"encoder_mixer": version, "decoder_mixer": version, "encoder_directions": directions}
    config = NetworkConfig(5, ActionSpec("discrete", (3,)), n_block=2, n_head=2, embed_dim=16, **mixers)
    network = spread(SequencePolicy(config))
    obs = torch.randn(1, 6, 5, dtype=torch.float64, requires_grad=True)
    values = network.values({"observations": obs})[0]
    return torch.stack([torch.autograd.grad(v, obs, retain_graph=True)[0][0].abs().amax(-1) > 0 for v in values])


@pytest.mark.parametrize("version", VERSIONS)
def test_values_depend_on_predecessors_or_with_two_directions_on_all(version):
    assert torch.equal(value_gradients(version, 1), torch.ones(6, 6).tril().bool())
    assert value_gradients(version, 2).all()


@pytest.mark.parametrize("kind", [RWKV4TimeMix, RWKV5TimeMix, RWKV6TimeMix])
@pytest.mark.parametrize("rate", [-200.0, 200.0])
def test_unbounded_decay_rates_stay_finite(kind, rate):
    mixer = kind(MixerShape(16))
    mixer.decay.data.fill_(rate)
    x = (1e4 * torch.randn(2, 9, 16)).requires_grad_()
    y, _ = mixer(x)
    y.sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in mixer.parameters())
