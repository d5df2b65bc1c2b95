"""RLlib's torch.compile options: compiled modules compute the same, and unsupported options are rejected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch.torch_compile_config import TorchCompileConfig

from rllib_seqmarl import MAMConfig, MATConfig
from rllib_seqmarl.algorithms import JointPPOConfig
from rllib_seqmarl.modules.joint_sequence_module import JointSequenceModule
from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy

pytestmark = pytest.mark.usefixtures("ray_cluster")

ACTIONS = {"discrete": ActionSpec("discrete", (3, 2)), "continuous": ActionSpec("continuous", dim=2)}


def small(config: JointPPOConfig) -> JointPPOConfig:
    return (
        config.copy(copy_frozen=False)
        .environment("coordination/distinct_choice", env_config={"n_agents": 3})
        .env_runners(num_env_runners=0, num_envs_per_env_runner=4)
        .training(train_batch_size_per_learner=40, minibatch_size=None, num_epochs=2)
        .network(embed_dim=8)
        .debugging(seed=0)
    )


def compiled(config: JointPPOConfig, backend: str = "aot_eager") -> JointPPOConfig:
    return config.framework(
        torch_compile_learner=True,
        torch_compile_learner_dynamo_backend=backend,
        torch_compile_worker=True,
        torch_compile_worker_dynamo_backend=backend,
    )


@pytest.fixture(autouse=True)
def reset_compiler() -> Any:
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("mixer", "kind"),
    [(mixer, "discrete") for mixer in ("attention", "mamba", "retention", "rwkv4", "rwkv5", "rwkv6")]
    + [("attention", "continuous")],
)
def test_acting_is_one_graph(mixer: str, kind: str) -> None:
    """There are no graph breaks and so no synchronisation with the device, as required by CUDA graphs."""
    torch.manual_seed(0)
    action = ACTIONS[kind]
    config = NetworkConfig(5, action, embed_dim=8, encoder_mixer=mixer, decoder_mixer=mixer, backend="reference")
    network = SequencePolicy(config)
    obs = {"observations": torch.randn(2, 5, 5), "action_mask": torch.ones(2, 5, action.width)}
    obs["alive"] = torch.tensor([[1.0] * 4 + [0.0]] * 2)
    results = []
    for act in (network.act, torch.compile(network.act, backend="eager", fullgraph=True)):
        torch.manual_seed(1)
        results.append(act(obs, deterministic=False)[:3])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_compiled_module_computes_the_same() -> None:
    """This includes custom kernels, which graphs bypass or replace by plain torch."""
    config = small(MAMConfig().network(d_state=4))
    algo = config.build_algo()
    module = algo.learner_group._learner.module[DEFAULT_MODULE_ID]
    assert isinstance(module, JointSequenceModule)
    for parameter in module.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
    obs = {"observations": torch.randn(6, *module.observation_space["observations"].shape), "alive": torch.ones(6, 3)}
    batch = {Columns.OBS: obs, Columns.ACTIONS: torch.randint(3, (6, 3))}

    def run() -> list[torch.Tensor]:
        torch.manual_seed(1)
        outputs = [module.forward_exploration(batch), module.forward_inference(batch), module.forward_train(batch)]
        sum(value.sum() for value in outputs[-1].values()).backward()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        module.zero_grad(set_to_none=True)
        return [value.detach() for out in outputs for value in out.values()] + gradients

    expected = run()
    module.compile(TorchCompileConfig(torch_dynamo_backend="aot_eager"))
    for found, before in zip(run(), expected, strict=True):
        torch.testing.assert_close(found, before, rtol=1e-4, atol=1e-5)
    algo.stop()


def test_training_with_both_options_is_equivalent() -> None:
    """Without this package, RLlib would compile neither the learner's nor the env runner's module."""
    weights = []
    for config in (small(MATConfig()), compiled(small(MATConfig()))):
        algo = config.build_algo()
        for _ in range(2):
            result = algo.train()
        is_compiled = config.torch_compile_learner
        learner = algo.learner_group._learner
        for module in (learner.module[DEFAULT_MODULE_ID].unwrapped(), algo.env_runner.module):
            assert ("_forward_train" in vars(module)) == is_compiled
        assert result["learners"][DEFAULT_MODULE_ID]["entropy"] > 0
        weights.append(learner.module[DEFAULT_MODULE_ID].state_dict())
        algo.stop()
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_unsupported_options_are_rejected_with_a_remedy() -> None:
    config = small(MATConfig()).framework(
        torch_compile_learner=True, torch_compile_learner_what_to_compile="complete_update"
    )
    with pytest.raises(ValueError, match="'complete_update' is not supported.*remove it"):
        config.validate()
    with pytest.raises(ValueError, match="torch_compile_worker_dynamo_backend='onnxrt'.*='inductor'"):
        small(MATConfig()).framework(torch_compile_worker=True).validate()  # RLlib's default, which needs onnxruntime
