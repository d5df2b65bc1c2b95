"""A user's objective is checked when the learner is built, and differentiated slice by slice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from small_learner import make_learner, make_rollout
from torch import Tensor

from rllib_seqmarl import MATConfig
from rllib_seqmarl.learners import slices as slicing
from rllib_seqmarl.learners.objectives import LOSS_WEIGHTS, find_objective, joint_ppo
from rllib_seqmarl.learners.rollout_data import RolloutData

Tensors = dict[str, Any]


def regularised(columns: Tensors, outputs: Tensors, settings: Any) -> dict[str, Tensor]:
    terms = joint_ppo(columns, outputs, settings)
    penalty = (columns[LOSS_WEIGHTS] * outputs[Columns.ACTION_LOGP].square()).sum()
    return {**terms, "total": terms["total"] + settings.gamma * penalty, "penalty": penalty.detach()}


def mean(columns: Tensors, outputs: Tensors, settings: Any) -> dict[str, Tensor]:
    return {"total": (outputs[Columns.VF_PREDS] - columns["value_targets"]).square().mean()}


def not_a_dict(columns: Tensors, outputs: Tensors, settings: Any) -> Any:
    return outputs[Columns.VF_PREDS].sum()


def not_scalar(columns: Tensors, outputs: Tensors, settings: Any) -> dict[str, Tensor]:
    return {"total": outputs[Columns.VF_PREDS]}


def detached(columns: Tensors, outputs: Tensors, settings: Any) -> dict[str, Tensor]:
    return {"total": outputs[Columns.VF_PREDS].detach().sum()}


def unknown_column(columns: Tensors, outputs: Tensors, settings: Any) -> dict[str, Tensor]:
    return {"total": outputs["q_values"].sum()}


def undefined(columns: Tensors, outputs: Tensors, settings: Any) -> dict[str, Tensor]:
    return {"total": (outputs[Columns.VF_PREDS] * torch.nan).sum()}


def other_terms(columns: Tensors, outputs: Tensors, settings: Any) -> dict[str, Tensor]:
    total = (columns[LOSS_WEIGHTS] * outputs[Columns.VF_PREDS]).sum()
    return {"total": total, f"rows_{len(columns[LOSS_WEIGHTS])}": total}


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (undefined, "'total' is nan for finite columns"),
        (other_terms, "returns different terms for different batches: .*rows_"),
        (mean, "'mean': 'total' is .* for a batch, but .* sum over its halves.*multiply by columns"),
        (not_a_dict, "returns Tensor; return a dict of scalar tensors"),
        (not_scalar, r"'total' is a tensor \(\d+, 2\), not a scalar tensor"),
        (detached, "'total' does not depend on the module's outputs"),
        (unknown_column, "reads 'q_values', which is neither a column .* nor an output"),
    ],
)
def test_unusable_objectives_are_refused(objective: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_learner(objective=objective)


@pytest.mark.parametrize(
    ("objective", "message"), [("my_losses:f", "cannot be imported"), (3, "is not a function"), ("math:pi", "is not")]
)
def test_an_objective_that_is_no_function_is_refused(objective: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MATConfig().environment("coordination/distinct_choice").training(objective=objective).validate()


def test_an_objective_is_found_by_name() -> None:
    assert find_objective("rllib_seqmarl.learners.objectives:joint_ppo") is joint_ppo is find_objective(None)


def test_a_users_objective_is_computed_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    for tokens in (1 << 12, 8):  # the whole batch; four teams of two
        monkeypatch.setattr(slicing, "TOKENS", tokens)
        learner = make_learner(objective=regularised)
        assert learner._can_slice()
        results = learner.update(training_data=RolloutData(rollouts=[make_rollout(0)]))[DEFAULT_MODULE_ID]
        assert results["penalty"].peek() > 0
        weights.append(torch.cat([p.detach().flatten() for p in learner.module[DEFAULT_MODULE_ID].parameters()]))
    torch.testing.assert_close(*weights, atol=1e-5, rtol=1e-5)
    plain = make_learner()
    plain.update(training_data=RolloutData(rollouts=[make_rollout(0)]))
    changed = torch.cat([p.detach().flatten() for p in plain.module[DEFAULT_MODULE_ID].parameters()])
    assert (changed - weights[0]).abs().max() > 1e-5
