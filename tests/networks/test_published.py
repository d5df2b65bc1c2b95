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
