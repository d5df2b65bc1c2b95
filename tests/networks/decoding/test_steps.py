"""Compiled steps equal plain torch steps, for every causal mixer."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from rllib_seqmarl.mixers import MIXERS, CausalMixer, MixerShape, PostNormMixers
from rllib_seqmarl.mixers.mamba import MambaOptions
from rllib_seqmarl.mixers.retention import RetentionOptions
from rllib_seqmarl.mixers.rwkv6 import RWKV6Options
from rllib_seqmarl.networks.decoding.step import TorchStep, step_of
from rllib_seqmarl.ops import numba_support

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
CAUSAL: dict[str, tuple[Callable[[MixerShape], CausalMixer], bool]] = {}  # mixer, and whether it reads the context
for _name, _mixers in MIXERS.items():
    if isinstance(_mixers, PostNormMixers):
        CAUSAL |= {f"{_name}/self": (_mixers.decoder, False), f"{_name}/cross": (_mixers.cross, True)}
    else:
        CAUSAL |= {f"{_name}/time": (_mixers.time, False), f"{_name}/channel": (_mixers.channel, False)}
OPTIONS = {
    "mamba": [MambaOptions(d_state=1, d_conv=1, expand=1, dt_rank=1), MambaOptions(d_state=5, d_conv=3, dt_rank=40)],
    "retention": [RetentionOptions(decay_scaling=0.6)],
    "rwkv6": [RWKV6Options(mix_rank=1, decay_rank=3)],
}


def build(name, dtype=torch.float64, **shape):
    """A mixer with weights far from their small initial values."""
    mixer = CAUSAL[name][0](MixerShape(**shape)).to(dtype)
    for parameter in mixer.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
    return mixer


def run(step, name, x, context):
    """The outputs (B, n, d) of a step for tokens (B, n, d)."""
    step.start(*x.shape[:2])
    outputs = []
    for t in range(x.shape[1]):
        token, source = (tensor[:, t].contiguous().numpy() for tensor in (x, context))
        outputs.append(step(token, source if CAUSAL[name][1] else None))
    return torch.from_numpy(np.stack(outputs, axis=1))


SIZES = [(64, 1), (6, 3), (20, 2), (72, 8), (132, 1)]
# The norm of retention needs two channels or more in each of n_head groups of a head.
SIZES_OF = {"retention": [(64, 1), (27, 3), (20, 2), (75, 5), (132, 1)]}


@pytest.mark.parametrize(
    ("name", "d", "n_head"), [(name, *sizes) for name in CAUSAL for sizes in SIZES_OF.get(name.split("/")[0], SIZES)]
)
@pytest.mark.parametrize("dtype", TOLERANCES)
@torch.no_grad()
def test_compiled_steps_equal_torch_steps(name, dtype, d, n_head):
    torch.manual_seed(0)
    mixer = build(name, dtype, embed_dim=d, n_head=n_head)
    compiled = step_of(mixer)
    assert not isinstance(compiled, TorchStep)
    for batch_size, n in ((1, 3), (5, 19), (13, 9)):  # one step after another, started anew for each
        x, context = torch.randn(2, batch_size, n, d, dtype=dtype)
        actual, expected = run(compiled, name, x, context), run(TorchStep(mixer), name, x, context)
        scale = expected.abs().max().clamp(min=1.0).item()
        torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCES[dtype] * scale)


@pytest.mark.parametrize("name", [name for name in CAUSAL if name.split("/")[0] in OPTIONS])
@torch.no_grad()
def test_compiled_steps_equal_torch_steps_with_other_options(name):
    torch.manual_seed(0)
    for options in OPTIONS[name.split("/")[0]]:
        mixer = build(name, embed_dim=20, n_head=2, layer=1, n_layer=2, options=options)
        x, context = torch.randn(2, 11, 9, 20, dtype=torch.float64)
        actual, expected = run(step_of(mixer), name, x, context), run(TorchStep(mixer), name, x, context)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_result_does_not_depend_on_threads(name, monkeypatch):
    torch.manual_seed(0)
    mixer = build(name, embed_dim=12, n_head=2)
    x, context = torch.randn(2, 17, 10, 12, dtype=torch.float64)
    threads, shares = torch.get_num_threads(), []
    submit = numba_support.ThreadPoolExecutor.submit
    monkeypatch.setattr(numba_support, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(
        numba_support.ThreadPoolExecutor, "submit", lambda *args: shares.append(args[2:4]) or submit(*args)
    )
    try:
        torch.set_num_threads(3)
        actual = run(step_of(mixer), name, x, context)
    finally:
        torch.set_num_threads(threads)
    assert shares[:3] == [(0, 5), (5, 11), (11, 17)]
    torch.testing.assert_close(actual, run(TorchStep(mixer), name, x, context), rtol=0, atol=1e-10)


def test_subclasses_run_by_their_own_step():
    class Doubled(MIXERS["rwkv4"].time):
        def forward(self, *args):
            y, state = super().forward(*args)
            return 2 * y, state

    assert isinstance(step_of(Doubled(MixerShape(8))), TorchStep)


def test_outputs_of_the_wrong_shape_are_rejected():
    class Narrow(MIXERS["rwkv4"].channel):
        def step(self, x, state, context=None):
            return x[:, 1:], state

    step = step_of(Narrow(MixerShape(8)))
    step.start(2, 1)
    with pytest.raises(ValueError, match=r"a tensor of shape \(2, 7\) instead of \(2, 8\)"):
        step(np.zeros((2, 8), np.float32))
