"""Samples of an older policy are clipped around the current one, and weighted by importance."""

from __future__ import annotations

import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from rllib_seqmarl import MATConfig
from rllib_seqmarl.learners.objectives import decouple
from rllib_seqmarl.learners.rollout_data import RolloutData


def columns(*shape: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        Columns.ACTION_LOGP: torch.randn(*shape, generator=generator),
        Postprocessing.ADVANTAGES: torch.randn(*shape[:2], generator=generator),
        Columns.VF_PREDS: torch.randn(*shape[:2], generator=generator),
    }


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 2)])
def test_importance_weights_use_each_agents_whole_action(shape: tuple[int, ...]) -> None:
    batch = columns(*shape)
    before = {key: value.clone() for key, value in batch.items()}
    log_probs, values = before[Columns.ACTION_LOGP] + torch.rand(shape), torch.zeros(shape[:2])
    decouple(batch, log_probs, values)
    ratio = log_probs.exp() / before[Columns.ACTION_LOGP].exp()
    weights = ratio if len(shape) == 2 else ratio.prod(-1)
    torch.testing.assert_close(batch[Postprocessing.ADVANTAGES], before[Postprocessing.ADVANTAGES] * weights)
    assert batch[Columns.ACTION_LOGP] is log_probs and batch[Columns.VF_PREDS] is values


@pytest.mark.usefixtures("ray_cluster")
def test_a_learner_decouples_samples_of_an_older_policy() -> None:
    """Samples of the current policy are unchanged; after an update, ratios start at 1 again."""
    config = (
        MATConfig()
        .environment("coordination/distinct_choice", env_config={"n_agents": 3, "max_cycles": 5})
        .env_runners(num_envs_per_env_runner=4)
        .training(train_batch_size_per_learner=60, num_epochs=5, lr=1e-2)
        .network(embed_dim=16)
        .debugging(seed=1)
    )
    algo = config.training(sample_while_learning=True).build_algo()
    learner, data = algo.learner_group._learner, RolloutData(rollouts=[algo.env_runner.sample()])

    def make_decoupled_batch() -> dict[str, torch.Tensor]:
        return learner._make_batch_if_necessary(data).policy_batches[DEFAULT_MODULE_ID]

    plain = learner._make_batch(data).policy_batches[DEFAULT_MODULE_ID]
    decoupled = make_decoupled_batch()
    for key in (Columns.ACTION_LOGP, Columns.VF_PREDS, Postprocessing.ADVANTAGES, Postprocessing.VALUE_TARGETS):
        torch.testing.assert_close(decoupled[key], plain[key], atol=1e-5, rtol=1e-5)

    algo.learner_group.update(training_data=data, num_epochs=5)
    decoupled = make_decoupled_batch()
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    current = module.forward_train(dict(decoupled))
    torch.testing.assert_close(decoupled[Columns.ACTION_LOGP], current[Columns.ACTION_LOGP])
    assert (decoupled[Columns.ACTION_LOGP] - plain[Columns.ACTION_LOGP]).abs().max() > 0.01
    weights = (decoupled[Columns.ACTION_LOGP] - plain[Columns.ACTION_LOGP]).exp()
    plain_after = learner._make_batch(data).policy_batches[DEFAULT_MODULE_ID]
    torch.testing.assert_close(decoupled[Postprocessing.ADVANTAGES], plain_after[Postprocessing.ADVANTAGES] * weights)
    algo.stop()
