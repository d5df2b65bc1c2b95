"""Mamba's mixers agree with the published Mamba and Multi-Agent Mamba."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rllib_seqmarl.mixers import MIXERS, MixerShape
from rllib_seqmarl.mixers.mamba import BidirectionalMamba, Mamba, MambaCore, MambaOptions
from rllib_seqmarl.networks.blocks import PostNormDecoderBlock, PostNormEncoderBlock
from rllib_seqmarl.ops.selective_scan import SELECTIVE_SCAN

GOLDEN = Path(__file__).parents[1] / "golden"
BACKENDS = SELECTIVE_SCAN.available()


def golden(name):
    data = np.load(GOLDEN / f"{name}.npz")
    return {key: torch.from_numpy(data[key]) for key in data.files}


@pytest.mark.parametrize("backend", BACKENDS)
def test_core_equals_mamba(backend):
    data = golden("mamba_block")
    shape = MixerShape(int(data["d_model"]), options=MambaOptions(d_state=int(data["d_state"])), backend=backend)
    core = MambaCore(shape)
    weights = {key.removeprefix("weights/"): value for key, value in data.items() if key.startswith("weights/")}
    weights["conv_weight"] = weights.pop("conv1d.weight").squeeze(1)
    weights["conv_bias"] = weights.pop("conv1d.bias")
    core.load_state_dict(weights)
    torch.testing.assert_close(core(data["x"])[0], data["y"], rtol=0, atol=1e-6)
    y, state = core(data["x"], None, core.initial_state(len(data["x"])))
    torch.testing.assert_close(y, data["y"], rtol=0, atol=1e-6)
    torch.testing.assert_close(state["scan"], data["final_ssm_state"], rtol=1e-5, atol=1e-6)
    # The published state also holds the oldest input, which is not read any more.
    torch.testing.assert_close(state["inputs"], data["final_conv_state"][..., 1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_core_equals_transformers(backend):
    modeling = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    configuration = pytest.importorskip("transformers.models.mamba.configuration_mamba")
    torch.manual_seed(0)
    options = MambaOptions(d_state=5, d_conv=3, expand=3, dt_rank=4)
    core = MambaCore(MixerShape(12, options=options, backend=backend))
    config = configuration.MambaConfig(
        hidden_size=12, state_size=5, conv_kernel=3, expand=3, time_step_rank=4, use_bias=False, use_conv_bias=True
    )
    theirs = modeling.MambaMixer(config, layer_idx=0)
    weights = dict(core.state_dict())
    weights["conv1d.weight"], weights["conv1d.bias"] = weights.pop("conv_weight").unsqueeze(1), weights.pop("conv_bias")
    theirs.load_state_dict(weights)
    x = torch.randn(2, 9, 12)
    torch.testing.assert_close(core(x)[0], theirs(x), rtol=1e-5, atol=1e-5)


def published_block(data, prefix, names):
    """Published weights under our names; kernels are stored as (in, out), the convolution as (width, 1, dim)."""
    weights = {}
    for key, value in data.items():
        if not key.startswith(f"weights/{prefix}."):
            continue
        name = key.removeprefix(f"weights/{prefix}.")
        for published, ours in names.items():
            if name.startswith(published):
                name = ours + name.removeprefix(published)
                break
        if name.endswith("conv1d.kernel"):
            name, value = name.replace("conv1d.kernel", "conv_weight"), value.squeeze(1).T
        elif name.endswith(".kernel"):
            name, value = name.replace(".kernel", ".weight"), value.T
        name = name.replace("conv1d.bias", "conv_bias").replace("delta_proj", "dt_proj").replace(".scale", ".weight")
        weights[name] = value
    return weights


def mamba_shape(data):
    sizes = {key: int(data[key]) for key in ("d_state", "d_conv", "dt_rank", "expand")}
    return MixerShape(int(data["d_model"]), options=MambaOptions(**sizes))


def test_encoder_block_equals_mam():
    data = golden("mam_blocks")
    block = PostNormEncoderBlock(MIXERS["mamba"], mamba_shape(data)).double()
    names = {
        "bimamba.block.": "mixer.core.",
        "bimamba.norm1": "mixer.norm",
        "bimamba.outer_norm": "mixer.outer_norm",
        "ln1": "norm1",
        "ln2": "norm2",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.2",
    }
    block.load_state_dict(published_block(data, "encode_block", names))
    torch.testing.assert_close(block(data["x"])[0], data["encode_block_out"], rtol=0, atol=1e-9)


def test_decoder_block_equals_mam():
    data = golden("mam_blocks")
    block = PostNormDecoderBlock(MIXERS["mamba"], mamba_shape(data)).double()
    names = {
        "crossmamba.block.C_proj": "cross.C_proj",
        "crossmamba.block.": "cross.core.",
        "crossmamba.norm1": "cross.norm",
        "crossmamba.norm2": "cross.context_norm",
        "crossmamba.outer_norm": "cross.outer_norm",
        "mamba.block.": "mixer.core.",
        "mamba.norm1": "mixer.norm",
        "mamba.outer_norm": "mixer.outer_norm",
        "ln1": "norm1",
        "ln2": "norm2",
        "ln3": "norm3",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.2",
    }
    block.load_state_dict(published_block(data, "decode_block", names))
    torch.testing.assert_close(block(data["x"], data["rep"])[0], data["decode_block_out"], rtol=0, atol=1e-9)


def test_both_ways_of_combining_directions():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    outputs = {}
    for kind in ("product", "sum"):
        torch.manual_seed(1)
        mixer = BidirectionalMamba(MixerShape(8, options=MambaOptions(bidirectional=kind))).double()
        normed, core = mixer.norm(x), mixer.core
        forth, _ = core(normed)
        joined = {"product": forth * core(forth.flip(1))[0].flip(1), "sum": forth + core(normed.flip(1))[0].flip(1)}
        outputs[kind], _ = mixer(x)
        torch.testing.assert_close(outputs[kind], mixer.outer_norm(x + joined[kind]))
    assert not torch.allclose(outputs["product"], outputs["sum"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_inputs_steps_and_decays_do_not_overflow(backend):
    torch.manual_seed(0)
    for kind in (Mamba, BidirectionalMamba):
        mixer = kind(MixerShape(16, backend=backend))
        core = mixer.core
        for parameter in (core.A_log, core.dt_proj.weight, core.dt_proj.bias):
            parameter.data *= 30.0  # decays from exp(-1) to exp(-1e37) a unit step
        x = (1e6 * torch.randn(3, 33, 16)).requires_grad_()
        y, _ = mixer(x)
        y.sum().backward()
        assert y.isfinite().all() and x.grad.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in mixer.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_conv": 0}, "d_conv must be an integer >= 1, not 0"),
        ({"d_state": 2.5}, "d_state must be an integer >= 1, not 2.5"),
        ({"dt_rank": "full"}, "dt_rank must be an integer >= 1 or 'auto', not 'full'"),
        ({"expand": True}, "expand must be an integer >= 1, not True"),
        ({"bidirectional": "mean"}, "bidirectional must be 'product' or 'sum', not 'mean'"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        MambaOptions(**options)
