"""The network computes what the published MARWKV, version 4, computes, to rounding error."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rllib_seqmarl.networks import load_published_marwkv, load_published_mat

GOLDEN = Path(__file__).parents[1] / "golden"
DEAD = ("encoder.state_encoder", "decoder.obs_encoder", "decoder.ln.")


def load(name):
    data = np.load(GOLDEN / f"{name}.npz")
    weights = {key.removeprefix("weights/"): data[key] for key in data.files if key.startswith("weights/")}
    inputs = {key: torch.from_numpy(data[key]) for key in data.files if "/" not in key and data[key].ndim}
    return load_published_marwkv(weights), inputs, weights


@pytest.fixture(params=["marwkv4_discrete", "marwkv4_continuous"])
def golden(request):
    return load(request.param)


def test_evaluation_is_exact(golden):
    network, data, _ = golden
    log_probs, entropy, values = network.evaluate(data["obs"], data["given_actions"], data.get("action_mask"))
    torch.testing.assert_close(log_probs, data["given_log_probs"], rtol=0, atol=1e-9)
    torch.testing.assert_close(entropy, data["given_entropy"], rtol=0, atol=1e-9)
    torch.testing.assert_close(values, data["values"], rtol=0, atol=1e-9)
    torch.testing.assert_close(network.values(data["obs"]), data["values"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("deterministic", [True, False])
def test_deciding_agent_by_agent_gives_the_log_probabilities_of_the_whole_team(golden, deterministic):
    network, data, _ = golden
    mask = data.get("action_mask")
    actions, log_probs, values = network.act(data["obs"], mask, deterministic=deterministic)
    again, _, _ = network.evaluate(data["obs"], actions, mask)
    torch.testing.assert_close(log_probs, again, rtol=0, atol=1e-9)
    torch.testing.assert_close(values, data["values"], rtol=0, atol=1e-9)


def test_the_parameters_are_those_of_the_published_network_but_for_the_dead(golden):
    network, _, weights = golden
    published = sum(array.size for name, array in weights.items() if not name.startswith(DEAD))
    assert sum(parameter.numel() for parameter in network.parameters()) == published


def test_a_checkpoint_file_loads(golden, tmp_path):
    network, data, weights = golden
    torch.save({name: torch.from_numpy(array) for name, array in weights.items()}, tmp_path / "marwkv.pt")
    again = load_published_marwkv(tmp_path / "marwkv.pt")
    assert torch.equal(again.values(data["obs"]), network.values(data["obs"]))


def test_another_checkpoint_is_refused_with_a_reason(golden):
    _, _, weights = golden
    for missing in (
        "encoder.obs_encoder.1.weight",
        "decoder.rwkv.rwkv.h.0.ffn.time_mix_key",
        "decoder.rwkv.rwkv.ln_f.weight",
    ):
        with pytest.raises(ValueError, match=f"not a checkpoint of the published MARWKV: .*{missing}"):
            load_published_marwkv({name: array for name, array in weights.items() if name != missing})
    mat = np.load(GOLDEN / "mat_discrete.npz")
    mat_weights = {key.removeprefix("weights/"): mat[key] for key in mat.files if key.startswith("weights/")}
    with pytest.raises(ValueError, match="not a checkpoint of the published MARWKV: .*decoder.rwkv.rwkv.h.0"):
        load_published_marwkv(mat_weights)
    with pytest.raises(ValueError, match="not a checkpoint of the published MAT: .*decoder.blocks.0"):
        load_published_mat(weights)
