"""Networks survive saving and loading; damaged or foreign files are rejected with a reason."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from random_networks import Case, cases, team_obs

from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy
from rllib_seqmarl.policies.export import ExportError, load_network, save_network


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_round_trip(tmp_path, case: Case):
    extra = {"mean": torch.tensor(1.5, dtype=torch.float64)}
    save_network(tmp_path / "team.v1", case.network, extra, {"task": "spread"})
    network, tensors, description = load_network(tmp_path / "team.v1")
    assert network.config == case.network.config
    assert tensors == extra and description["task"] == "spread"
    decisions = []
    for policy in (network, case.network):
        torch.manual_seed(0)  # of the drawn order of agents
        decisions.append(policy.act(case.obs)[:3])
    assert all(map(torch.equal, *decisions))


def test_backend_is_not_saved(tmp_path):
    """A policy trained with optional libraries must load on machines without them."""
    action = ActionSpec("discrete", nvec=(3,))
    config = NetworkConfig(4, action, embed_dim=8, decoder_mixer="mamba", encoder_mixer="mamba", backend="mamba-ssm")
    save_network(tmp_path / "team", SequencePolicy(config))
    network, _, _ = load_network(tmp_path / "team")
    assert network.config.backend == "auto"
    network.act(team_obs(torch.zeros(1, 2, 4)))


@pytest.fixture
def saved(tmp_path):
    action = ActionSpec("discrete", nvec=(3,))
    save_network(tmp_path / "team", SequencePolicy(NetworkConfig(4, action, embed_dim=8)))
    return tmp_path / "team"


def test_truncated_weights(saved):
    weights = saved.with_suffix(".safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ExportError, match="damaged or truncated"):
        load_network(saved)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_missing_file(saved, suffix):
    saved.with_suffix(suffix).unlink()
    with pytest.raises(ExportError, match="is missing"):
        load_network(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"format_version": 1, "network": {"obs_dim": 4}}, "is not a valid network"),
        ({"format_version": 1, "network": []}, "is not a valid network"),
        (
            {"format_version": 1, "network": {"obs_dim": 5, "action": {"kind": "discrete", "nvec": [3]}}},
            "does not contain the weights",
        ),
    ],
)
def test_invalid_description(saved, change, message):
    file = saved.with_suffix(".json")
    description = json.loads(file.read_text()) | change
    del description["sha256"]
    file.write_text(json.dumps(description))
    with pytest.raises(ExportError, match=message):
        load_network(saved)


def test_truncated_description(saved):
    file = saved.with_suffix(".json")
    file.write_text(file.read_text()[:-10])
    with pytest.raises(ExportError, match="damaged"):
        load_network(saved)
