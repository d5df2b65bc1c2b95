"""After a restore, moments come from the checkpoint and settings from the config, starting with the first update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from small_learner import make_learner, make_rollout

from rllib_seqmarl.learners.joint_ppo_torch_learner import JointPPOTorchLearner
from rllib_seqmarl.learners.rollout_data import RolloutData


def train(learner: JointPPOTorchLearner, steps: int = 0) -> None:
    timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: steps}
    learner.update(training_data=RolloutData(rollouts=[make_rollout(0)]), timesteps=timesteps)


def weights(learner: JointPPOTorchLearner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.module[DEFAULT_MODULE_ID].parameters()]).clone()


def group(learner: JointPPOTorchLearner) -> dict[str, Any]:
    (param_group,) = learner.get_optimizer().param_groups
    return param_group


@pytest.mark.parametrize(
    ("lr", "expected"), [(1e-6, 1e-6), ([[0, 1e-2], [1000, 0.0]], 5e-3), ([[0, 1.0], [100, 1e-7], [200, 1e-7]], 1e-7)]
)
def test_the_first_update_uses_the_configs_learning_rate(lr: Any, expected: float) -> None:
    first, second = make_learner(lr=1e-2), make_learner(lr=lr, adam_epsilon=1e-3)
    train(first)
    second.set_state(first.get_state())
    state = second.get_optimizer().state_dict()["state"]
    assert state and all(moments["step"] == 1 for moments in state.values())
    before = weights(second)
    train(second, steps=500)
    assert group(second)["lr"] == pytest.approx(expected) and group(second)["eps"] == 1e-3
    assert group(second)["betas"] == group(first)["betas"]
    assert (weights(second) - before).abs().max() <= 10 * expected


def test_with_the_same_config_training_continues_identically() -> None:
    first, second = make_learner(lr=[[0, 1e-2], [1000, 0.0]]), make_learner(lr=[[0, 1e-2], [1000, 0.0]])
    train(first, 100)
    second.set_state(first.get_state())
    for learner in (first, second):
        train(learner, 200)
    assert group(first)["lr"] == group(second)["lr"] == pytest.approx(8e-3)
    torch.testing.assert_close(weights(first), weights(second))


def test_a_learner_returns_to_an_earlier_state() -> None:
    learner = make_learner()
    train(learner)
    state, before = learner.get_state(), weights(learner)
    train(learner)
    assert not torch.equal(weights(learner), before)
    learner.set_state(state)
    assert torch.equal(weights(learner), before)
