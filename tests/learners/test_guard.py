"""Non-finite updates are not applied: weights, optimiser and normaliser stay unchanged."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from small_learner import make_learner, make_rollout

from rllib_seqmarl.learners.joint_ppo_torch_learner import JointPPOTorchLearner, NonFiniteLossError
from rllib_seqmarl.learners.rollout_data import RolloutData

CLIPPING: list[dict[str, Any]] = [
    {"grad_clip": 10.0},
    {"grad_clip": None},
    {"grad_clip": None, "log_gradients": False},
    {"grad_clip": 0.5, "grad_clip_by": "value"},
    {"grad_clip": 0.5, "grad_clip_by": "norm"},
]


def state_of(learner: JointPPOTorchLearner) -> tuple[dict[str, Any], dict[str, Any]]:
    module = learner.module[DEFAULT_MODULE_ID].state_dict()
    return copy.deepcopy(dict(module)), copy.deepcopy(learner.get_optimizer().state_dict()["state"])


def is_same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_same(a[key], b[key]) for key in a)
    return torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def spoil_gradient(learner: JointPPOTorchLearner, value: float) -> None:
    """Replace one parameter's gradient; the loss stays finite, as when a ratio overflows."""
    parameter = next(iter(learner.module[DEFAULT_MODULE_ID].parameters()))
    parameter.register_hook(lambda gradient: torch.full_like(gradient, value))


@pytest.mark.parametrize("sliced", [True, False])
@pytest.mark.parametrize("options", CLIPPING)
def test_non_finite_gradients_are_rejected(
    options: dict[str, Any], sliced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner(**options)
    monkeypatch.setattr(JointPPOTorchLearner, "_can_slice", lambda self: sliced)
    data = RolloutData(rollouts=[make_rollout(0)])
    before = state_of(learner)
    learner.update(training_data=data)
    after = state_of(learner)
    assert not is_same(after[0], before[0])  # a finite update is applied
    spoil_gradient(learner, float("inf"))
    with pytest.raises(NonFiniteLossError, match=r"gradient's norm became (inf|nan).*lower `lr`"):
        learner.update(training_data=data)
    assert all(map(is_same, state_of(learner), after))


@pytest.mark.parametrize("sliced", [True, False])
def test_non_finite_losses_are_rejected(sliced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make_learner()
    monkeypatch.setattr(JointPPOTorchLearner, "_can_slice", lambda self: sliced)
    before = state_of(learner)
    rollout = make_rollout(0)
    rollout.outputs["action_logp"][3] = np.nan
    with pytest.raises(NonFiniteLossError, match="loss became nan.*lower `grad_clip`"):
        learner.update(training_data=RolloutData(rollouts=[rollout]))
    assert all(map(is_same, state_of(learner), before))


def test_an_overflowing_norm_of_finite_gradients_is_rejected() -> None:
    learner = make_learner()
    spoil_gradient(learner, 3e38)
    with pytest.raises(NonFiniteLossError, match="gradient's norm became inf"):
        learner.update(training_data=RolloutData(rollouts=[make_rollout(0)]))


def test_updates_are_skipped_with_torch_skip_nan_gradients() -> None:
    learner = make_learner(torch_skip_nan_gradients=True)
    before = state_of(learner)
    spoil_gradient(learner, float("nan"))
    learner.update(training_data=RolloutData(rollouts=[make_rollout(0)]))
    assert all(map(is_same, state_of(learner), before))
