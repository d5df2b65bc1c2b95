"""The network agrees with the published MAT, and MARWKV version 4, to rounding error."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from random_networks import team_obs

from rllib_seqmarl.policies.published import load_published_marwkv, load_published_mat

GOLDEN = Path(__file__).parents[1] / "golden"
# Parameters that the published forward passes do not use.
UNUSED = {
    "MAT": ("encoder.state_encoder", "decoder.obs_encoder"),
    "MARWKV": ("encoder.state_encoder", "decoder.obs_encoder", "decoder.ln."),
}
# Parameters that errors must name if they are missing.
NEEDED = {
    "MAT": ("encoder.obs_encoder.1.weight", "decoder.blocks.0.attn2.query.bias"),
    "MARWKV": (
        "encoder.obs_encoder.1.weight",
        "decoder.rwkv.rwkv.h.0.ffn.time_mix_key",
        "decoder.rwkv.rwkv.ln_f.weight",
    ),
}


class Golden:
    """A published network's loader, weights, inputs and outputs, and the loaded network."""

    def __init__(self, file):
        data = np.load(GOLDEN / f"{file}.npz")
        self.name = "MAT" if file.startswith("mat") else "MARWKV"
        self.weights = {key.removeprefix("weights/"): data[key] for key in data.files if key.startswith("weights/")}
        self.data = {key: torch.from_numpy(data[key]) for key in data.files if "/" not in key and data[key].ndim}
        is_mat = self.name == "MAT"
        self.load = partial(load_published_mat, n_head=int(data["n_head"])) if is_mat else load_published_marwkv
        self.network = self.load(self.weights)
        self.obs = team_obs(self.data["obs"], self.data.get("action_mask"))


@pytest.fixture(params=["mat_discrete", "mat_continuous", "marwkv4_discrete", "marwkv4_continuous"])
def golden(request):
    return Golden(request.param)


def test_evaluation_is_exact(golden):
    network, data = golden.network, golden.data
    log_probs, entropy, values, _ = network.evaluate(golden.obs, data["given_actions"])
    torch.testing.assert_close(log_probs, data["given_log_probs"], rtol=0, atol=1e-9)
    torch.testing.assert_close(entropy, data["given_entropy"], rtol=0, atol=1e-9)
    torch.testing.assert_close(values, data["values"], rtol=0, atol=1e-9)
    torch.testing.assert_close(network.values(golden.obs), data["values"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("file", ["mat_discrete", "mat_continuous"])
def test_greedy_joint_action_is_exact(file):
    golden = Golden(file)
    data = golden.data
    actions, log_probs, values, *_ = golden.network.act(golden.obs)
    # The published code returns these two in float32.
    torch.testing.assert_close(actions.to(data["greedy_actions"].dtype), data["greedy_actions"])
    torch.testing.assert_close(log_probs.float(), data["greedy_log_probs"])
    torch.testing.assert_close(values, data["values"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("deterministic", [True, False])
def test_decoding_agrees_with_evaluation(golden, deterministic):
    network, data = golden.network, golden.data
    actions, log_probs, values, *_ = network.act(golden.obs, deterministic=deterministic)
    again = network.evaluate(golden.obs, actions).log_probs
    torch.testing.assert_close(log_probs, again, rtol=0, atol=1e-9)
    torch.testing.assert_close(values, data["values"], rtol=0, atol=1e-9)


def test_number_of_parameters_equals_the_published_ones_in_use(golden):
    published = sum(array.size for name, array in golden.weights.items() if not name.startswith(UNUSED[golden.name]))
    assert sum(parameter.numel() for parameter in golden.network.parameters()) == published


def test_checkpoint_file_loads_without_its_constants(golden, tmp_path):
    state_dict = {name: torch.from_numpy(array) for name, array in golden.weights.items()}
    state_dict["encoder.blocks.0.attn.mask"] = torch.ones(1, 1, 6, 6)  # a buffer of the published MAT
    torch.save(state_dict, tmp_path / "transformer_0.pt")
    again = golden.load(tmp_path / "transformer_0.pt")
    assert torch.equal(again.values(golden.obs), golden.network.values(golden.obs))


def test_incomplete_checkpoints_are_rejected_with_a_reason(golden):
    for missing in NEEDED[golden.name]:
        with pytest.raises(ValueError, match=f"not a checkpoint of the published {golden.name}: .*{missing}"):
            golden.load({name: array for name, array in golden.weights.items() if name != missing})


def test_checkpoints_of_the_other_architecture_are_rejected():
    mat, marwkv = Golden("mat_discrete"), Golden("marwkv4_discrete")
    with pytest.raises(ValueError, match="not a checkpoint of the published MARWKV: .*decoder.rwkv.rwkv.h.0"):
        load_published_marwkv(mat.weights)
    with pytest.raises(ValueError, match="not a checkpoint of the published MAT: .*decoder.blocks.0"):
        load_published_mat(marwkv.weights)
    with pytest.raises(ValueError, match="embed_dim=.* n_head=7"):
        load_published_mat(mat.weights, n_head=7)
