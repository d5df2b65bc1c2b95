"""Learning with one optimiser per part of a policy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from small_learner import SPACES, make_rollout

from rllib_seqmarl import MAPPOConfig, MATConfig
from rllib_seqmarl.algorithms import JointPPOConfig
from rllib_seqmarl.learners.joint_ppo_torch_learner import JointPPOTorchLearner
from rllib_seqmarl.learners.rollout_data import RolloutData

LINEAR = [[0, 1e-2], [1000, 0.0]]


def make_learner(config: JointPPOConfig, **options: Any) -> JointPPOTorchLearner:
    torch.manual_seed(0)
    config.training(num_epochs=1, **options)
    return config.build_learner(spaces={DEFAULT_MODULE_ID: SPACES, "__env__": (None, None), "__env_single__": SPACES})


def train(learner: JointPPOTorchLearner, steps: int = 0) -> dict[str, Any]:
    data = RolloutData(rollouts=[make_rollout(0)])
    results = learner.update(training_data=data, timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: steps})[DEFAULT_MODULE_ID]
    return {key: getattr(value, "peek", lambda v=value: v)() for key, value in results.items()}


def weights(learner: JointPPOTorchLearner) -> dict[str, torch.Tensor]:
    """The parameters of each optimiser, one vector each."""
    groups = learner.module[DEFAULT_MODULE_ID].policy.parameter_groups()
    return {name: torch.cat([p.detach().flatten() for p in group]) for name, group in groups.items()}


def rate(learner: JointPPOTorchLearner, name: str) -> float:
    return float(learner.get_optimizer(DEFAULT_MODULE_ID, f"{name}_optimizer").param_groups[0]["lr"])


@pytest.mark.parametrize("share_actor", [True, False])
def test_actors_and_critic_have_their_own_learning_rates_norms_and_clipping(share_actor: bool) -> None:
    config = MAPPOConfig().network(share_actor=share_actor)
    learner = make_learner(config, lr=1e-3, critic_lr=1e-2, grad_clip=1e-3, adam_epsilon=1.0)
    before = weights(learner)
    results = train(learner)
    assert set(before) == {"critic", *(["actor"] if share_actor else ["actor_0", "actor_1"])}
    for name, after in weights(learner).items():
        assert results[f"gradients_{name}_optimizer_global_norm"] > 1e-3
        assert rate(learner, name) == results[f"{name}_optimizer_learning_rate"] == (1e-2 if name == "critic" else 1e-3)
        # Adam's first step is lr * g / (|g| + epsilon), nearly lr * g for this epsilon: its length shows the clipping.
        step = (after - before[name]).norm() / rate(learner, name)
        assert step == pytest.approx(1e-3, rel=5e-3)


def test_the_critic_has_the_actors_learning_rate_by_default() -> None:
    learner = make_learner(MAPPOConfig(), lr=LINEAR)
    train(learner, steps=500)
    assert rate(learner, "actor") == rate(learner, "critic") == pytest.approx(5e-3)


def test_restored_learners_continue_identically() -> None:
    first, second = (make_learner(MAPPOConfig(), lr=1e-3, critic_lr=LINEAR) for _ in range(2))
    train(first, 100)
    second.set_state(first.get_state())
    for learner in (first, second):
        train(learner, 200)
    assert rate(first, "critic") == rate(second, "critic") == pytest.approx(8e-3)
    assert rate(first, "actor") == rate(second, "actor") == 1e-3
    for name, ours in weights(second).items():
        torch.testing.assert_close(ours, weights(first)[name])


def test_a_critics_learning_rate_needs_a_critic() -> None:
    with pytest.raises(ValueError, match="critic_lr=0.01 has no effect: .* policy='sequence' are learned with lr; rem"):
        make_learner(MATConfig(), critic_lr=0.01)
