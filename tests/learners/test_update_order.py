"""Agents updated one after another: the order, the factor M, and the critic last; against a plain loop."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from small_learner import N, make_learner, make_rollout
from torch import Tensor

from rllib_seqmarl import MAPPOConfig
from rllib_seqmarl.learners.advantages import AGENT_EARNS
from rllib_seqmarl.learners.joint_ppo_torch_learner import JointPPOTorchLearner
from rllib_seqmarl.learners.rollout_data import RolloutData
from rllib_seqmarl.learners.update_order import CRITIC, UPDATED
from rllib_seqmarl.modules import joint_sequence_module

NUM_EPOCHS = 3


def separate_actors() -> MAPPOConfig:
    return MAPPOConfig().network(share_actor=False, hidden_sizes=[8])


def plain_loop(learner: JointPPOTorchLearner, data: RolloutData, order: list[int]) -> None:
    """Update as HAPPO does (arXiv 2109.11251, Algorithm 4), on whole batches."""
    columns = dict(learner._make_batch(data).policy_batches[DEFAULT_MODULE_ID])
    config, module = learner.config, learner.module[DEFAULT_MODULE_ID]
    groups = list(module.policy.parameter_groups().values())  # n actors, and the critic
    optimizers = [torch.optim.Adam(group, lr=config.lr, eps=config.adam_epsilon) for group in groups]
    old, advantages = columns[Columns.ACTION_LOGP], columns[Postprocessing.ADVANTAGES]  # (rows, n)
    alive, earns = columns[Columns.OBS]["alive"].bool(), columns[AGENT_EARNS]
    own = [advantages[alive[:, agent], agent] for agent in range(N)]
    advantages = (advantages - torch.stack([x.mean() for x in own])) / torch.stack([x.std(correction=0) for x in own])
    factor = torch.ones(len(advantages))

    def step(loss: Tensor, group: int) -> None:
        optimizers[group].zero_grad()
        loss.backward(inputs=groups[group])
        torch.nn.utils.clip_grad_norm_(groups[group], config.grad_clip)
        optimizers[group].step()

    for agent in order:
        with torch.no_grad():
            before = module.forward_train(columns)[Columns.ACTION_LOGP][:, agent]
        for _ in range(NUM_EPOCHS):
            outputs = module.forward_train(columns)
            ratio, acts = (outputs[Columns.ACTION_LOGP] - old)[:, agent].exp(), alive[:, agent]
            clipped = ratio.clamp(1 - config.clip_param, 1 + config.clip_param)
            surrogate = factor * torch.minimum(ratio * advantages[:, agent], clipped * advantages[:, agent])
            step(-(surrogate + config.entropy_coeff * outputs["entropy"][:, agent])[acts].mean(), agent)
        with torch.no_grad():
            factor = factor * (module.forward_train(columns)[Columns.ACTION_LOGP][:, agent] - before).exp()
    returns = columns[Postprocessing.VALUE_TARGETS]
    for _ in range(NUM_EPOCHS):
        module.update_value_normalizer(returns, weights=earns.float())
        targets, values = module.normalize_values(returns), module.forward_train(columns)[Columns.VF_PREDS]
        change = (values - columns[Columns.VF_PREDS]).clamp(-config.clip_param, config.clip_param)
        errors = [
            torch.nn.functional.huber_loss(x, targets, reduction="none", delta=config.huber_delta)
            for x in (values, columns[Columns.VF_PREDS] + change)
        ]
        step(torch.maximum(*errors)[earns].mean(), -1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agents_are_updated_one_after_another(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"lr": 3e-3, "grad_clip": 0.5, "adam_epsilon": 1e-3}
    learner = make_learner(separate_actors(), update_order="sequential", **options)
    expected = make_learner(separate_actors(), **options)
    data, order = RolloutData(rollouts=[make_rollout(seed)]), [[0, 1], [1, 0]][seed % 2]
    start = copy.deepcopy(expected.module[DEFAULT_MODULE_ID].state_dict())
    monkeypatch.setattr(torch, "randperm", lambda n: torch.tensor(order))
    plain_loop(expected, data, order)
    results = learner.update(training_data=data, num_epochs=NUM_EPOCHS)[DEFAULT_MODULE_ID]
    learned = learner.module[DEFAULT_MODULE_ID].state_dict()
    for key, value in expected.module[DEFAULT_MODULE_ID].state_dict().items():
        torch.testing.assert_close(learned[key], value, atol=1e-5, rtol=1e-5)
    assert max((learned[key] - value).abs().max() for key, value in start.items()) > 5e-3
    assert results["policy_loss"].peek() != 0 and results["vf_loss"].peek() > 0  # each from its own phase
    optimizers = [optimizer for _, optimizer in learner.get_optimizers_for_module(DEFAULT_MODULE_ID)]
    assert len(optimizers) == N + 1  # each takes part in its own phase only
    assert {int(state["step"]) for optimizer in optimizers for state in optimizer.state.values()} == {NUM_EPOCHS}


def test_a_turn_runs_only_the_network_that_it_updates() -> None:
    learner = make_learner(separate_actors(), update_order="sequential")
    policy, calls = learner.module[DEFAULT_MODULE_ID].policy, {"actors.0": 0, "actors.1": 0, "critic": 0}
    data = RolloutData(rollouts=[make_rollout(0)])
    batch = learner._make_batch(data)

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    for name in calls:
        policy.get_submodule(name).register_forward_hook(count(name))
    learner.update(training_data=TrainingData(batch=batch), num_epochs=NUM_EPOCHS)
    # The first agent's log-probabilities are also computed before and after its epochs.
    assert sorted(calls.values()) == [NUM_EPOCHS, NUM_EPOCHS, NUM_EPOCHS + 2] and calls["critic"] == NUM_EPOCHS


@pytest.mark.parametrize("evaluates", ["policies without parts", "whole minibatches"])
def test_evaluating_parts_does_not_change_an_update(evaluates: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randperm", lambda n: torch.arange(n))
    data, weights = RolloutData(rollouts=[make_rollout(0)]), []
    for is_changed in (False, True):
        learner = make_learner(separate_actors(), update_order="sequential", lr=3e-3, adam_epsilon=1e-3)
        if is_changed and evaluates == "policies without parts":
            monkeypatch.setattr(joint_sequence_module, "SeparatePolicy", ())
        elif is_changed:
            monkeypatch.setattr(learner, "_can_slice", lambda: False)  # RLlib's own update
        learner.update(training_data=data, num_epochs=NUM_EPOCHS)
        weights.append(learner.module[DEFAULT_MODULE_ID].state_dict())
        optimizers = [optimizer for _, optimizer in learner.get_optimizers_for_module(DEFAULT_MODULE_ID)]
        assert {int(s["step"]) for optimizer in optimizers for s in optimizer.state.values()} == {NUM_EPOCHS}
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-6, rtol=1e-5, msg=name)


def test_agents_that_share_parameters_cannot_be_updated_one_after_another() -> None:
    for config in (None, MAPPOConfig().network(hidden_sizes=[8])):
        with pytest.raises(ValueError, match=r"2 agents share parameters of .*share_actor=False"):
            make_learner(config, update_order="sequential")


def test_the_order_is_drawn_anew_for_every_update() -> None:
    learner, orders = make_learner(separate_actors(), update_order="sequential"), set()
    batch = learner._make_batch(RolloutData(rollouts=[make_rollout(0)]))
    for _ in range(20):
        phases = list(learner._create_iterator_if_necessary(training_data=RolloutData(rollouts=[make_rollout(0)])))
        parts = [phase.policy_batches[DEFAULT_MODULE_ID][UPDATED].unique().tolist() for phase in phases]
        assert sorted(parts) == [[CRITIC], [0], [1]] and parts[-1] == [CRITIC]
        orders.add(parts[0][0])
        assert all(len(phase.policy_batches[DEFAULT_MODULE_ID]) == batch.env_steps() for phase in phases)
    assert orders == {0, 1}
