"""Policies with memory as RLlib algorithms: training, restored teams, and evaluation remember alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from torch.utils._pytree import tree_leaves

from rllib_seqmarl import JointPolicy, MAMConfig, MAPPOConfig, MATConfig, SableConfig
from rllib_seqmarl.algorithms import JointPPOConfig
from rllib_seqmarl.env_runners.rollout_env_runner import RolloutEnvRunner

pytestmark = pytest.mark.usefixtures("ray_cluster")
PRESETS: dict[str, Callable[[], JointPPOConfig]] = {
    "MAPPO with a GRU": lambda: MAPPOConfig().network(memory="gru", hidden_sizes=[8], max_seq_len=5),
    "MAT with Mamba": lambda: MATConfig().network(memory="mamba", embed_dim=8, memory_options={"d_state": 2}),
    "MAM over time and agents": lambda: MAMConfig().network(memory="joint", embed_dim=8, max_seq_len=3),
    "Sable": lambda: SableConfig().network(embed_dim=8, step_encoding=True),
    "Sable without time": lambda: SableConfig().network(embed_dim=8, recurrent=False, agents_per_chunk=1),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_restored_team_remembers_alike(preset: str, tmp_path: Path) -> None:
    config = (
        PRESETS[preset]()
        .environment("coordination/recall", env_config={"max_cycles": 4})
        .env_runners(num_envs_per_env_runner=4)
        .training(train_batch_size_per_learner=40, minibatch_size=20, num_epochs=2)
        .evaluation(evaluation_interval=1, evaluation_duration=4)
    )
    algo = config.build_algo()
    network = algo.get_module().policy
    before = {name: x.clone() for name, x in network.state_dict().items()}
    for _ in range(2):
        result = algo.train()
    assert "episode_return_mean" in result["evaluation"]["env_runners"]
    assert all(x.isfinite().all() for x in network.state_dict().values() if x.is_floating_point())
    assert any(not torch.equal(x, before[name]) for name, x in network.state_dict().items())
    algo.save_to_path(tmp_path)
    algo.stop()
    restored = Algorithm.from_checkpoint(tmp_path)
    others = restored.get_module().policy, JointPolicy.from_checkpoint(tmp_path).network
    restored.stop()
    for policy in others:
        assert policy.config == network.config
    states: list[Any] = [None] * 3
    for _ in range(3):
        obs = {"observations": torch.randn(5, 2, network.config.obs_dim)}
        decisions = [policy.act(obs, state) for policy, state in zip((network, *others), states, strict=True)]
        states = [decision.state for decision in decisions]
        for decision in decisions[1:]:
            for mine, expected in zip(tree_leaves(decision[:4]), tree_leaves(decisions[0][:4]), strict=True):
                torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("preset", ["MAPPO with a GRU", "MAM over time and agents", "Sable"])
def test_episodes_begin_anew_with_restarted_runners_and_restored_algorithms(preset: str, tmp_path: Path) -> None:
    """What RLlib does with a killed runner: a new one gets the state of another."""
    config = (
        PRESETS[preset]()
        .environment("coordination/recall", env_config={"max_cycles": 9})
        .env_runners(num_envs_per_env_runner=2, rollout_fragment_length=6)
        .training(train_batch_size_per_learner=12, minibatch_size=None)
    )
    algo = config.build_algo()
    algo.train()
    runner = algo.env_runner
    assert any(leaf.any() for leaf in tree_leaves(runner._state))  # within an episode
    restarted = RolloutEnvRunner(config=config, worker_index=0)
    restarted.set_state(runner.get_state())
    algo.save_to_path(tmp_path)
    restored = Algorithm.from_checkpoint(tmp_path)
    for other in (restarted, restored.env_runner):
        rollout = other.sample()
        assert rollout.is_first[0].all() and not rollout.is_first[1:6].any()
        assert not any(leaf[0].any() for leaf in tree_leaves(rollout.states))
        obs = {key: torch.as_tensor(x[:6]).transpose(0, 1) for key, x in rollout.obs.items()}  # (envs, T, n, ...)
        actions, log_probs = (
            torch.as_tensor(rollout.outputs[key][:6]).transpose(0, 1) for key in ("actions", "action_logp")
        )
        policy = runner.module.policy
        evaluation = policy.evaluate(obs, actions, policy.initial_state(2))
        torch.testing.assert_close(evaluation.log_probs, log_probs, rtol=0, atol=1e-4)
    restarted.stop()
    restored.stop()
    algo.stop()


def test_the_published_settings_of_sable_are_the_defaults() -> None:
    config = SableConfig()
    options = {"lr": 2.5e-4, "num_epochs": 4, "clip_param": 0.2, "entropy_coeff": 0.01, "vf_loss_coeff": 0.5}
    options |= {"grad_clip": 0.5, "use_value_norm": False, "huber_delta": None, "gamma": 0.99, "lambda_": 0.95}
    options |= {"embed_dim": 64, "n_head": 1, "n_block": 1, "decay_scaling": 0.8, "recurrent": True}
    assert options.items() <= vars(config).items()
    assert config.train_batch_size_per_learner == 2 * config.minibatch_size == 32 * 128


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "heads": ({"n_head": 4, "embed_dim": 16}, "embed_dim=16 with n_head=4: retention normalises"),
    "indivisible": ({"n_head": 3}, "embed_dim=64 with n_head=3"),
    "window": ({"recurrent": False, "max_seq_len": 10}, "max_seq_len=10 has no effect with recurrent=False"),
    "steps": ({"recurrent": False, "step_encoding": True}, "step_encoding=True has no effect with recurrent=False"),
    "chunks": ({"agents_per_chunk": 2}, "agents_per_chunk=2 has no effect with recurrent=True"),
    "decay": ({"decay_scaling": 1.5}, "decay_scaling must be a number from 0 to 1"),
    "backend": ({"backend": "cuda"}, "backend"),
    "longer than a sample": ({"max_seq_len": 1000}, "max_seq_len=1000 is longer than the 128 steps"),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_sable_cannot_serve_are_refused(case: str) -> None:
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        SableConfig().environment("coordination/recall").network(**options).validate()
