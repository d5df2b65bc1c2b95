"""A dead agent whose team still collects rewards has a value, and that value is trained."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from small_learner import make_learner, make_rollout

from rllib_seqmarl.learners.advantages import AGENT_EARNS, per_agent_gae
from rllib_seqmarl.learners.joint_ppo_loss import joint_ppo_loss
from rllib_seqmarl.learners.joint_ppo_torch_learner import JointPPOTorchLearner
from rllib_seqmarl.learners.objectives import joint_ppo
from rllib_seqmarl.learners.rollout_data import RolloutData
from rllib_seqmarl.rollouts import Rollout


def make_columns(learner: JointPPOTorchLearner, rollout: Rollout, as_episodes: bool) -> dict[str, np.ndarray]:
    """Compute a learner's columns from a rollout, with rows sorted by observation."""
    data = TrainingData(episodes=list(rollout)) if as_episodes else RolloutData(rollouts=[rollout])
    columns = learner._make_batch(data).policy_batches[DEFAULT_MODULE_ID]
    names = (Postprocessing.ADVANTAGES, Postprocessing.VALUE_TARGETS, AGENT_EARNS, Columns.VF_PREDS)
    order = np.lexsort(columns[Columns.OBS]["observations"][:, :, 0].numpy().T)
    return {name: columns[name].numpy()[order] for name in names}


@pytest.mark.parametrize("change", [0.0, 5.0])
@pytest.mark.parametrize("options", [{}, {"team_reward": "sum"}, {"shared_reward": True}])
def test_rollouts_and_episodes_yield_the_same_columns(options: dict[str, Any], change: float) -> None:
    learner = make_learner(**options)
    for seed in range(3):
        rollout = make_rollout(seed)
        if options.get("team_reward") == "sum":
            rollout = dataclasses.replace(rollout, rewards=rollout.rewards * 2, env_rewards=rollout.env_rewards * 2)
        rollout.rewards[::2] += change
        expected, actual = make_columns(learner, rollout, False), make_columns(learner, rollout, True)
        for name in expected:
            np.testing.assert_allclose(actual[name], expected[name], atol=1e-5, err_msg=name)
        assert 0 < expected[AGENT_EARNS].mean() < 1


def value_gradients(learner: JointPPOTorchLearner, rollout: Rollout) -> np.ndarray:
    """Gradient of the loss with respect to each predicted value, (rows, n), in the order of the rollout's steps."""
    columns = dict(learner._make_batch(RolloutData(rollouts=[rollout])).policy_batches[DEFAULT_MODULE_ID])
    learner._weigh(columns)
    with torch.no_grad():
        outputs = learner.module[DEFAULT_MODULE_ID].forward_train(columns)
    outputs[Columns.VF_PREDS].requires_grad_()
    terms = joint_ppo(columns, outputs, learner._settings)
    (gradient,) = torch.autograd.grad(terms["total"], outputs[Columns.VF_PREDS])
    return gradient.numpy()


@pytest.mark.parametrize("seed", range(3))
def test_values_are_trained_where_agents_collect_a_return(seed: int) -> None:
    rollout = make_rollout(seed)
    is_trained = value_gradients(make_learner(vf_clip_param=1e9), rollout) != 0
    np.testing.assert_array_equal(is_trained, rollout.agent_earns[rollout.is_step])


def test_the_critic_learns_the_values_of_agents_that_die_before_their_team_wins() -> None:
    """A value table converges to its fixed point: a discounted reward of 20 for the win after `horizon` steps."""
    horizon, death, gamma = 30, 10, 0.99
    rewards, continues = np.zeros((horizon, 2), np.float32), np.ones((horizon, 2), np.float32)
    rewards[-1], continues[-1] = 20.0, 0.0
    alive, earns = torch.ones(horizon, 2), torch.ones(horizon, 2)
    alive[death:] = 0.0
    continues[death - 1, 1] = 0.0  # the second agent's death is a termination
    earns[death:, 1] = 0.0
    zeros, values = torch.zeros(horizon, 2), torch.zeros(horizon, 2, requires_grad=True)
    for _ in range(60):
        old = values.detach().numpy()
        targets = per_agent_gae(rewards, np.vstack([old, 0 * old[:1]]), continues, gamma=gamma, lambda_=0.95) + old
        loss = joint_ppo_loss(
            log_probs=zeros,
            old_log_probs=zeros,
            advantages=zeros,
            entropy=zeros,
            values=values,
            old_values=values.detach(),
            value_targets=torch.from_numpy(targets),
            weights=alive,
            value_weights=earns,
            clip_param=0.2,
            vf_clip_param=1e9,
            huber_delta=None,
            vf_loss_coeff=1.0,
            entropy_coeff=0.0,
        )
        (gradient,) = torch.autograd.grad(loss["total"], values)
        with torch.no_grad():
            values -= gradient
    expected = 20.0 * gamma ** np.arange(horizon - 1, -1, -1)
    np.testing.assert_allclose(values.detach()[:, 0], expected, rtol=1e-4)
    assert values.detach()[:, 1].abs().max() == 0.0  # it collected no reward, and its value is not trained afterwards
