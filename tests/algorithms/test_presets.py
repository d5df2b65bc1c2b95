"""The options of MAM, MARWKV and mixed encoders and decoders reach the network."""

from __future__ import annotations

import dis
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.rllib.algorithms.algorithm import Algorithm

from rllib_seqmarl import JointPolicy, MAMConfig, MARWKVConfig, MATConfig
from rllib_seqmarl.algorithms import JointPPOConfig
from rllib_seqmarl.mixers.base import Addition, Bidirectional
from rllib_seqmarl.mixers.mamba import BidirectionalMamba, CrossMamba, Mamba
from rllib_seqmarl.policies import SequencePolicy
from rllib_seqmarl.registry import ALGORITHMS

pytestmark = pytest.mark.usefixtures("ray_cluster")
ENV = "coordination/distinct_choice"


def small(config: JointPPOConfig) -> JointPPOConfig:
    return (
        config.environment(ENV, env_config={"n_agents": 3})
        .env_runners(num_envs_per_env_runner=4)
        .training(train_batch_size_per_learner=40, minibatch_size=None, num_epochs=1)
        .network(embed_dim=16)
    )


def network_of(config: JointPPOConfig) -> SequencePolicy:
    """Return the network of an algorithm after one training iteration."""
    algo = small(config).build_algo()
    algo.train()
    network: SequencePolicy = algo.get_module().network
    algo.stop()
    return network


def test_all_presets_are_registered() -> None:
    assert set(ALGORITHMS) >= {"MAT", "MAM", "MARWKV"}
    for name, algorithm in ALGORITHMS.items():
        assert type(algorithm.get_default_config()).__name__ == f"{name}Config"
        assert algorithm.get_default_config().algo_class is algorithm
        dis.dis(algorithm, file=io.StringIO())  # as Ray does with actors; classes in attributes must not form a circle


def test_mam_uses_mamba_in_all_mixers() -> None:
    network = network_of(MAMConfig().network(d_state=4, d_conv=2, expand=3, dt_rank=5))
    block = network.decoder.blocks[0]
    assert isinstance(network.encoder.blocks[0].mixer, BidirectionalMamba)
    assert isinstance(block.mixer, Mamba) and isinstance(block.cross, CrossMamba)
    core = block.mixer.core
    assert core.A_log.shape == (48, 4) and core.conv_weight.shape == (48, 2) and core.dt_proj.weight.shape == (48, 5)


@pytest.mark.parametrize("version", [4, 5, 6])
def test_marwkv_uses_the_chosen_version(version: int) -> None:
    config = network_of(MARWKVConfig().network(version=version, n_head=2)).config
    assert config.encoder_mixer == config.decoder_mixer == f"rwkv{version}"


def test_encoder_and_decoder_mixers_are_independent() -> None:
    network = network_of(
        MATConfig().network(encoder_mixer="mamba", decoder_mixer="rwkv6", mixer_options={"d_state": 3})
    )
    assert network.encoder.blocks[0].mixer.core.A_log.shape[1] == 3
    assert network.config.decoder_mixer == "rwkv6"
    mixed = network_of(MARWKVConfig().network(version=5, encoder_mixer="attention")).config
    assert (mixed.encoder_mixer, mixed.decoder_mixer) == ("attention", "rwkv5")
    assert (
        network_of(MAMConfig().network(encoder_mixer="attention", decoder_mixer="attention")).config.mixer_options == {}
    )


def test_ablations_of_the_papers_can_be_configured() -> None:
    assert not network_of(MAMConfig().network(bidirectional="sum")).encoder.blocks[0].mixer.is_product
    assert isinstance(network_of(MAMConfig().network(decoder_cross="addition")).decoder.blocks[0].cross, Addition)
    both = network_of(MARWKVConfig().network(encoder_directions=2, agent_order="shuffled"))
    assert isinstance(both.encoder.blocks[0].time, Bidirectional)


@pytest.mark.parametrize(
    "config",
    [
        MAMConfig().network(d_state=4, bidirectional="sum", backend="reference"),
        MARWKVConfig().network(version=6, encoder_directions=2, mixer_options={"mix_rank": 3}),
    ],
    ids=["MAM", "MARWKV"],
)
def test_checkpoints_store_every_option(config: JointPPOConfig, tmp_path: Path) -> None:
    """A team decides as before after it is restored as an algorithm or as a policy without Ray."""
    algo = small(config.copy(copy_frozen=False)).build_algo()
    algo.train()
    module = algo.get_module()
    algo.save_to_path(tmp_path)
    algo.stop()
    restored = Algorithm.from_checkpoint(tmp_path)
    policy = JointPolicy.from_checkpoint(tmp_path)
    network = restored.get_module().network
    restored.stop()
    assert network.config == module.network.config
    assert replace(policy.network.config, backend=network.config.backend) == network.config
    obs = {"observations": torch.randn(5, 3, network.config.obs_dim)}
    decision = module.network.act(obs)[:3]
    assert all(map(torch.equal, network.act(obs)[:3], decision))
    for ours, theirs in zip(policy.network.act(obs)[:3], decision, strict=True):
        torch.testing.assert_close(ours, theirs)


BAD_OPTIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "version": (
        lambda: MARWKVConfig().network(version=7),
        r"version=7 is not a version of RWKV; choose one of \(4, 5, 6\)",
    ),
    "policy of MARWKV": (
        lambda: MARWKVConfig().network(policy="independent"),
        "policy='independent' does not fit MARWKVConfig, whose options are for policy='sequence'; use MAPPOC",
    ),
    "policy of MAM": (
        lambda: MAMConfig().network(policy="independent", embed_dim=64, encoder_mixer="attention"),
        "policy='independent' does not fit MAMConfig, .* and JointPPOConfig for other policies",
    ),
    "rate of a critic": (
        lambda: MATConfig().training(critic_lr=1e-3),
        "critic_lr=0.001 has no effect: policy='sequence' has no separate critic; remove it",
    ),
    "fraction of a version": (lambda: MARWKVConfig().network(version=4.0), "version=4.0 is not a version of RWKV"),
    "set twice": (
        lambda: MAMConfig().network(d_state=8, mixer_options={"d_state": 4}),
        "d_state is set twice, by name and in mixer_options; remove one",
    ),
    "no effect": (
        lambda: MAMConfig().network(d_state=8, encoder_mixer="attention", decoder_mixer="attention"),
        "d_state=8 has no effect: neither encoder_mixer='attention' nor decoder_mixer='attention' is mamba",
    ),
    "unknown backend": (
        lambda: MATConfig().network(backend="numbra"),
        "unknown backend='numbra'. Did you mean",
    ),
    "size": (lambda: MAMConfig().network(d_conv=0), "d_conv must be an integer >= 1, not 0"),
    "option": (
        lambda: MATConfig().network(encoder_mixer="mamba", mixer_options={"d_sate": 8}),
        "'d_sate' is not an option of encoder_mixer='mamba'.* Did you mean 'd_state'.* are bidirectional, d_conv",
    ),
    "no options": (
        lambda: MATConfig().network(mixer_options={"d_state": 8}),
        "'d_state' is not an option of encoder_mixer='attention' or decoder_mixer='attention'. They have no options",
    ),
    "mixer": (
        lambda: MAMConfig().network(decoder_mixer="rwkv7"),
        "unknown decoder_mixer 'rwkv7'. Did you mean 'rwkv.*Known mixers: attention, mamba, retention, rwkv4, rwkv5",
    ),
    "heads": (lambda: MARWKVConfig().network(version=6, embed_dim=64, n_head=3), "embed_dim=64 cannot be split among"),
    "other backend": (lambda: MAMConfig().network(backend="fla"), "backend='fla' is not a backend of selective_scan"),
    "backend": (
        lambda: MAMConfig().network(backend="cuda"),
        "unknown backend='cuda'.* Choose one of auto, fla, mamba-ssm, numba, reference",
    ),
    "directions": (
        lambda: MAMConfig().network(encoder_directions=2),
        "encoder_directions=2 has no effect on enc.*mamba",
    ),
    "cross": (lambda: MARWKVConfig().network(decoder_cross="addition"), "decoder_cross='addition' has no effect on"),
    "order": (
        lambda: MAMConfig().network(agent_order="random"),
        "agent_order must be 'fixed', 'shuffled' or 'shuffled_steps', not 'random'",
    ),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_named(case: str) -> None:
    make, message = BAD_OPTIONS[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make().environment(ENV).validate()


def test_unknown_keywords_are_named() -> None:
    with pytest.raises(TypeError, match=r"network\(\) got an unexpected keyword 'embed_dims'.*mean 'embed_dim'"):
        MATConfig().network(embed_dims=8)
    with pytest.raises(TypeError, match=r"joint_env\(\) got an unexpected keyword 'team_rewards'\.$"):
        MATConfig().joint_env(team_rewards="sum")
    with pytest.raises(TypeError, match=r"'agent_order'\. It is an option of the policy: use network\(agent_order="):
        MATConfig().joint_env(agent_order="shuffled")
