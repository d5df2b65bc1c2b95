"""MAPPO, HAPPO, IPPO and MAT-Dec as RLlib algorithms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.rllib.algorithms.algorithm import Algorithm

from rllib_seqmarl import HAPPOConfig, IPPOConfig, JointPolicy, MAPPOConfig, MATDecConfig
from rllib_seqmarl.algorithms import JointPPOConfig
from rllib_seqmarl.policies import IndependentPolicy

pytestmark = pytest.mark.usefixtures("ray_cluster")
PRESETS: dict[str, Callable[[], JointPPOConfig]] = {
    "MAPPO": MAPPOConfig,
    "MAPPO without sharing": lambda: MAPPOConfig().network(share_actor=False, hidden_sizes=[8], activation="tanh"),
    "IPPO": IPPOConfig,
    "HAPPO": HAPPOConfig,
    "HAPPO with memory": lambda: HAPPOConfig().network(memory="gru", max_seq_len=5, hidden_sizes=[8]),
    "MAT-Dec": lambda: MATDecConfig().network(embed_dim=16, n_head=2),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_train_and_checkpoints_store_every_option(preset: str, tmp_path: Path) -> None:
    """A team decides as before after it is restored as an algorithm, or as a policy without Ray."""
    config = (
        PRESETS[preset]()
        .environment("coordination/distinct_choice", env_config={"n_agents": 3})
        .env_runners(num_envs_per_env_runner=4)
        .training(train_batch_size_per_learner=40, num_epochs=2)
    )
    algo = config.build_algo()
    before = {name: x.clone() for name, x in algo.get_module().policy.state_dict().items()}
    algo.train()
    network = algo.get_module().policy
    assert isinstance(network, IndependentPolicy)
    assert network.config.critic == config.critic and network.config.hidden_sizes == tuple(config.hidden_sizes)
    assert any(not torch.equal(x, before[name]) for name, x in network.state_dict().items())
    algo.save_to_path(tmp_path)
    algo.stop()
    restored = Algorithm.from_checkpoint(tmp_path)
    policies = restored.get_module().policy, JointPolicy.from_checkpoint(tmp_path).network
    restored.stop()
    obs = {"observations": torch.randn(5, 3, network.config.obs_dim)}
    for policy in policies:
        assert policy.config == network.config
        assert all(map(torch.equal, policy.act(obs)[:3], network.act(obs)[:3]))


def test_the_papers_settings_are_the_defaults() -> None:
    options = {"num_epochs": 5, "lr": 5e-4, "clip_param": 0.2, "entropy_coeff": 0.01, "gamma": 0.99, "lambda_": 0.95}
    options |= {"hidden_sizes": (64, 64), "activation": "relu", "share_actor": True, "minibatch_size": None}
    assert options.items() <= vars(MAPPOConfig()).items()
    differences = {key: x for key, x in vars(IPPOConfig()).items() if x != vars(MAPPOConfig()).get(key)}
    assert differences["critic"] == "observations" and "lr" not in differences and "num_epochs" not in differences
    options |= {"hidden_sizes": (128, 128), "share_actor": False, "update_order": "sequential", "critic_lr": None}
    options |= {"grad_clip": 10.0, "huber_delta": 10.0, "adam_epsilon": 1e-5, "critic": "state", "std": "sigmoid"}
    assert options.items() <= vars(HAPPOConfig()).items()
    assert HAPPOConfig().num_envs_per_env_runner * 200 == HAPPOConfig().train_batch_size_per_learner


BAD_OPTIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "encoder": (lambda: MAPPOConfig().network(n_block=2), "n_block=2 has no effect on critic='state'"),
    "state": (lambda: MAPPOConfig().network(critic="team"), "critic must be 'state', 'observations', 'agent_state' or"),
    "misspelt": (
        lambda: MAPPOConfig().network(critic="encoder", n_blok=2),
        "unexpected keyword 'n_blok'. Did you mean",
    ),
    "decoder": (lambda: MATDecConfig().network(decoder_mixer="mamba"), "unexpected keyword 'decoder_mixer'"),
    "mixer": (
        lambda: MATDecConfig().network(mixer_options={"d_state": 8}),
        "'d_state' is not an option of encoder_mixer='attention'",
    ),
    "shared actor": (
        lambda: HAPPOConfig().network(share_actor=True),
        "share_actor=True leaves nothing to update one after another; .* MAPPOConfig",
    ),
    "order": (
        lambda: HAPPOConfig().training(update_order="together"),
        r"update_order='together' is not HAPPO.*MAPPOConfig with network\(share_actor=False\)",
    ),
    "rate": (lambda: MAPPOConfig().training(critic_lr=-1), "critic_lr=-1 is not a number >= 0 or a schedule"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_named(case: str) -> None:
    make, message = BAD_OPTIONS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        make().environment("coordination/distinct_choice").validate()
