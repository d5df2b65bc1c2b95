"""The network computes what the published MAT computes, to rounding error."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rllib_seqmarl.networks import load_published_mat

GOLDEN = Path(__file__).parents[1] / "golden"


def load(name):
    data = np.load(GOLDEN / f"{name}.npz")
    weights = {key.removeprefix("weights/"): data[key] for key in data.files if key.startswith("weights/")}
    inputs = {key: torch.from_numpy(data[key]) for key in data.files if "/" not in key and data[key].ndim}
    return load_published_mat(weights, n_head=int(data["n_head"])), inputs, weights


@pytest.fixture(params=["mat_discrete", "mat_continuous"])
def golden(request):
    return load(request.param)


def test_evaluation_is_exact(golden):
    network, data, _ = golden
    log_probs, entropy, values = network.evaluate(data["obs"], data["given_actions"], data.get("action_mask"))
    torch.testing.assert_close(log_probs, data["given_log_probs"], rtol=0, atol=1e-9)
    torch.testing.assert_close(entropy, data["given_entropy"], rtol=0, atol=1e-9)
    torch.testing.assert_close(values, data["values"], rtol=0, atol=1e-9)
    torch.testing.assert_close(network.values(data["obs"]), data["values"], rtol=0, atol=1e-9)


def test_greedy_joint_action_is_exact(golden):
    network, data, _ = golden
    actions, log_probs, values = network.act(data["obs"], data.get("action_mask"), deterministic=True)
    # The published code returns these two in float32.
    torch.testing.assert_close(actions.to(data["greedy_actions"].dtype), data["greedy_actions"])
    torch.testing.assert_close(log_probs.float(), data["greedy_log_probs"])
    torch.testing.assert_close(values, data["values"], rtol=0, atol=1e-9)


def test_the_parameters_are_those_of_the_published_network_but_for_the_dead(golden):
    network, _, weights = golden
    dead = ("encoder.state_encoder", "decoder.obs_encoder")
    published = sum(array.size for name, array in weights.items() if not name.startswith(dead))
    assert sum(parameter.numel() for parameter in network.parameters()) == published


def test_a_checkpoint_file_loads_without_its_constants(golden, tmp_path):
    network, data, weights = golden
    state_dict = {name: torch.from_numpy(array) for name, array in weights.items()}
    state_dict["encoder.blocks.0.attn.mask"] = torch.ones(1, 1, 6, 6)  # a buffer of the published module
    torch.save(state_dict, tmp_path / "transformer_0.pt")
    again = load_published_mat(tmp_path / "transformer_0.pt", n_head=network.config.n_head)
    assert torch.equal(again.values(data["obs"]), network.values(data["obs"]))


def test_another_checkpoint_is_refused_with_a_reason(golden):
    _, _, weights = golden
    for missing in ("encoder.obs_encoder.1.weight", "decoder.blocks.0.attn2.query.bias"):
        with pytest.raises(ValueError, match=f"not a checkpoint of the published MAT: .*{missing}"):
            load_published_mat({name: array for name, array in weights.items() if name != missing})
    with pytest.raises(ValueError, match="embed_dim=.* n_head=7"):
        load_published_mat(weights, n_head=7)
