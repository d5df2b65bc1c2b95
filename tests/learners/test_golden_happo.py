"""HAPPO's whole updates compared with the published implementation's numbers (PKU-MARL/HARL).

There, dead agents go on acting with continuous actions, and their steps count in the factor M. Here, a dead agent has
no action, hence log-probability 0, so that its steps leave M as it is; these tests let them act. The variant
"permuted_mean" is left out: it averages the ratios of action dimensions, whereas our independent actors have one
log-probability for the whole action, which the surrogate of HAPPO's paper is made of.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden_rollout import (
    ENVS,
    Golden,
    N,
    T,
    load,
    observations,
    option,
    per_agent,
    published_state,
    rows,
    set_published_state,
    spaces,
)
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from rllib_seqmarl import HAPPOConfig
from rllib_seqmarl.learners.advantages import AGENT_EARNS, normalize_advantages
from rllib_seqmarl.learners.joint_ppo_torch_learner import JointPPOTorchLearner
from rllib_seqmarl.learners.minibatches import make_batch
from rllib_seqmarl.learners.objectives import FACTOR
from rllib_seqmarl.learners.update_order import CRITIC, updated_part

FILES = ("happo_update", "happo_update_continuous")
VARIANTS = ("fixed", "permuted", "fresh", "fresh_epochs")


def make_learner(golden: Golden) -> JointPPOTorchLearner:
    """Create a learner in the state of the published one before its update, of agents that act when they are dead."""
    config = (
        HAPPOConfig()
        .network(hidden_sizes=[16, 16], activation=option(golden, "activation"))
        .training(
            lr=option(golden, "lr"),
            critic_lr=option(golden, "critic_lr"),
            adam_epsilon=option(golden, "adam_eps"),
            clip_param=option(golden, "clip"),
            huber_delta=option(golden, "huber_delta"),
            entropy_coeff=option(golden, "entropy_coef"),
            vf_loss_coeff=option(golden, "value_loss_coef"),
            grad_clip=option(golden, "max_grad_norm"),
        )
    )
    joint_spaces = spaces(golden)
    learner = config.build_learner(
        spaces={DEFAULT_MODULE_ID: joint_spaces, "__env__": (None, None), "__env_single__": joint_spaces}
    )
    set_published_state(golden, learner.module[DEFAULT_MODULE_ID])
    return learner


def let_the_dead_act(learner: JointPPOTorchLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution = learner.module[DEFAULT_MODULE_ID].policy.distribution
    mask = distribution.effective_mask
    monkeypatch.setattr(distribution, "effective_mask", lambda action_mask, alive: mask(action_mask, None))


def train_batch(golden: Golden, variant: str) -> dict[str, Any]:
    """The columns of the published rollout, with its advantages and returns."""
    data = golden
    if variant.startswith("fresh"):  # the policy that acted is the one before the update
        data = golden | {key.removeprefix("fresh/"): x for key, x in golden.items() if key.startswith("fresh/")}
    alive = rows(data["active"])
    advantages = normalize_advantages(rows(per_agent(data["advantages"])), alive, per_agent=True)
    torch.testing.assert_close(advantages, rows(data[f"{variant}/advantages_normalised"]), rtol=0, atol=1e-5)
    return {
        Columns.OBS: {key: array[: T * ENVS] for key, array in observations(data).items()},
        Columns.ACTIONS: rows(data["actions"]),
        Columns.ACTION_LOGP: summed(data["log_probs"]),
        Columns.VF_PREDS: rows(per_agent(data["value_predictions_normalised"])),
        Postprocessing.ADVANTAGES: advantages,
        Postprocessing.VALUE_TARGETS: rows(per_agent(data["returns"])),
        AGENT_EARNS: torch.ones_like(alive),
    }


def summed(log_probs: np.ndarray) -> Tensor:
    """(T * ENVS, N) of log-probabilities that may have an axis of action dimensions."""
    return rows(log_probs).reshape(T * ENVS, N, -1).sum(-1)


class Record:
    """What a learner computes for each part that it updates: the sums over epochs, and the factors before."""

    def __init__(self, learner: JointPPOTorchLearner) -> None:
        self.sums: dict[int, dict[str, float]] = {part: {} for part in (*range(N), CRITIC)}
        self.factors: dict[int, Tensor] = {}
        objective, log_value = learner._objective, learner.metrics.log_value
        self.part = CRITIC

        def recorded(columns: dict[str, Any], outputs: dict[str, Tensor], settings: Any) -> dict[str, Tensor]:
            terms = objective(columns, outputs, settings)
            self.part = updated_part(columns)
            if self.part != CRITIC:
                ratio = (outputs[Columns.ACTION_LOGP].detach() - columns[Columns.ACTION_LOGP])[:, self.part].exp()
                self.factors[self.part] = columns[FACTOR]
                self.add("mean_ratio", ratio.mean())
            for key, term in terms.items():
                self.add(key, term)
            return terms

        def log(key: Any, value: Any, **kwargs: Any) -> None:
            if str(key[-1]).endswith("_optimizer_global_norm"):
                self.add("norm", value)
            log_value(key, value, **kwargs)

        learner._objective, learner.metrics.log_value = recorded, log

    def add(self, key: str, value: Any) -> None:
        sums = self.sums[self.part]
        sums[key] = sums.get(key, 0.0) + float(value.detach())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", FILES)
def test_whole_update(name: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each agent's loss, entropy, gradient norm, ratio and factor; value loss, normaliser and all weights after."""
    golden = load(name)
    learner = make_learner(golden)
    let_the_dead_act(learner, monkeypatch)
    module, record = learner.module[DEFAULT_MODULE_ID], Record(learner)
    order, epochs = golden[f"{variant}/order"].tolist(), golden[f"{variant}/epochs"].item()
    monkeypatch.setattr(torch, "randperm", lambda n: torch.tensor(order))
    columns = train_batch(golden, variant)
    log_probs = learner._evaluate(columns)[0]
    torch.testing.assert_close(log_probs, summed(golden[f"{variant}/log_probs_before_update"]), rtol=0, atol=1e-5)
    learner.update(training_data=TrainingData(batch=make_batch(columns)), num_epochs=epochs)
    log_probs = learner._evaluate(columns)[0]
    torch.testing.assert_close(log_probs, summed(golden[f"{variant}/log_probs_after_update"]), rtol=0, atol=1e-5)

    for agent, successor in zip(order, [*order[1:], None], strict=True):
        for ours, theirs in {
            "policy_loss": "policy_loss",
            "entropy": "entropy",
            "norm": "actor_grad_norm",
            "mean_ratio": "mean_ratio",
        }.items():
            expected = golden[f"{variant}/{theirs}"][agent]
            assert record.sums[agent][ours] / epochs == pytest.approx(expected, abs=1e-5), (agent, ours)
        before = rows(golden[f"{variant}/M_before"][agent])[:, None].expand(-1, N)
        torch.testing.assert_close(record.factors[agent], before, rtol=1e-5, atol=0)
        if successor is not None:
            after = rows(golden[f"{variant}/M_after"][agent])[:, None].expand(-1, N)
            torch.testing.assert_close(record.factors[successor], after, rtol=1e-5, atol=0)
    for ours, theirs in (("vf_loss", "value_loss"), ("norm", "critic_grad_norm")):
        assert record.sums[CRITIC][ours] / epochs == pytest.approx(golden[f"{variant}/{theirs}"].item(), abs=1e-5)
    for ours, theirs in (("mean", "mean"), ("mean_square", "mean_sq"), ("debias", "debias")):
        expected = golden[f"{variant}/valuenorm_{theirs}_after"].item()
        assert getattr(module.value_normalizer, ours).item() == pytest.approx(expected, abs=1e-8), ours
    before = published_state(golden, "weights/", module.policy)
    after = published_state(golden, f"{variant}/weights_after/", module.policy)
    for key, weight in after.items():
        np.testing.assert_allclose(module.policy.get_parameter(key).detach(), weight, atol=1e-5, err_msg=key)
    # The tolerance is only meaningful if every part's weights have changed by more.
    for group in module.policy.parameter_groups().values():
        names = [key for key, parameter in module.policy.named_parameters() if any(parameter is p for p in group)]
        assert max((after[key] - before[key]).abs().max() for key in names) > 4e-4


def test_a_dead_agents_steps_leave_the_factor_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    golden = load("happo_update_continuous")
    monkeypatch.setattr(torch, "randperm", lambda n: torch.arange(n))
    factors = []
    for is_masked in (False, True):
        learner = make_learner(golden)
        if not is_masked:
            let_the_dead_act(learner, monkeypatch)
        record, columns = Record(learner), train_batch(golden, "fixed")
        learner.update(training_data=TrainingData(batch=make_batch(columns)), num_epochs=1)
        factors.append(record.factors[1][:, 0])
    is_dead = columns[Columns.OBS]["alive"][:, 0] == 0
    assert is_dead.any() and factors[1][is_dead].eq(1).all() and factors[0][is_dead].ne(1).all()
    torch.testing.assert_close(factors[0][~is_dead], factors[1][~is_dead])


def test_an_agent_that_is_dead_in_the_whole_batch_is_left_out() -> None:
    golden = load("happo_update")
    learner = make_learner(golden)
    record, columns = Record(learner), train_batch(golden, "fixed")
    columns[Columns.OBS]["alive"] = columns[Columns.OBS]["alive"].clone()
    columns[Columns.OBS]["alive"][:, 1] = 0
    groups = learner.module[DEFAULT_MODULE_ID].policy.parameter_groups()
    before = {name: [p.detach().clone() for p in group] for name, group in groups.items()}
    for _ in range(2):  # in the second update, Adam's momentum would move it
        learner.update(training_data=TrainingData(batch=make_batch(columns)), num_epochs=1)
    assert record.factors.keys() == {0, 2}
    for name, group in groups.items():
        is_equal = all(map(torch.equal, before[name], group))
        assert is_equal == (name == "actor_1"), name
