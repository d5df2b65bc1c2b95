"""Checkpoints of format version 2 act as before, and training continues from them.

They hold a MAT with a global state on mpe/simple_spread, and a MARWKV whose environment shuffled the agents.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.algorithm import Algorithm

from rllib_seqmarl import JointPolicy
from rllib_seqmarl.experiments.evaluation import evaluate, policy_env
from rllib_seqmarl.policies import SequencePolicy

GOLDEN = Path(__file__).parents[1] / "golden"
# The options that differ from the defaults.
OPTIONS = {
    "mat": {"embed_dim": 8, "global_state": True, "agent_order": "fixed"},
    "marwkv": {"embed_dim": 8, "version": 6, "agent_order": "shuffled"},
}


@pytest.fixture(scope="module", params=OPTIONS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, and the decisions of its network for some observations."""
    path = tmp_path_factory.mktemp("old") / str(request.param)
    with tarfile.open(GOLDEN / f"format_2_{request.param}.tar.xz") as archive:
        archive.extractall(path, filter="data")
    return path


def assert_acts_as_before(network: SequencePolicy, folder: Path) -> None:
    expected = np.load(folder / "expected.npz")
    obs = {key.removeprefix("obs/"): torch.from_numpy(expected[key]) for key in expected if key.startswith("obs/")}
    n_agents = obs["alive"].shape[1]
    order = torch.arange(n_agents).expand(len(obs["alive"]), n_agents)
    state = {} if network.config.agent_order == "fixed" else {"order": order}
    decision = network.act(obs, state)
    np.testing.assert_array_equal(decision.actions, expected["actions"])
    np.testing.assert_allclose(decision.log_probs, expected["log_probs"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(decision.values, expected["values"], rtol=0, atol=1e-6)


def test_policies_act_as_before(folder: Path, tmp_path: Path) -> None:
    policy = JointPolicy.from_checkpoint(folder / "checkpoint")
    assert_acts_as_before(policy.network, folder)
    policy.save(tmp_path / "again")
    assert_acts_as_before(JointPolicy.load(tmp_path / "again").network, folder)


def test_policies_can_be_evaluated_in_their_environment(folder: Path) -> None:
    policy = JointPolicy.from_checkpoint(folder / "checkpoint")
    env = policy_env(policy, num_envs=2)
    results = evaluate(policy, env, 2)
    env.close()
    assert list(results.agent_returns) == list(policy.layout.agents) and (results.lengths > 0).all()


@pytest.mark.usefixtures("ray_cluster")
def test_training_continues(folder: Path, tmp_path: Path) -> None:
    options = OPTIONS[folder.name]
    algo = Algorithm.from_checkpoint(folder / "checkpoint")
    assert {key: getattr(algo.config, key) for key in options} == options
    network = algo.get_module().network
    assert network.config.agent_order == options["agent_order"]
    assert_acts_as_before(network, folder)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = algo.train()
    assert result["training_iteration"] > 1
    assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items())
    algo.save_to_path(tmp_path)
    algo.stop()
    policy = JointPolicy.from_checkpoint(tmp_path)
    assert policy.network.config.agent_order == options["agent_order"]
    assert all(torch.equal(value, policy.network.state_dict()[name]) for name, value in network.state_dict().items())
