"""Learning is shown by learning: a task that provably needs a joint policy, solved."""

from __future__ import annotations

import time

import pytest

from rllib_seqmarl import MATConfig
from rllib_seqmarl.envs.distinct_choice import independent_bound

pytestmark = pytest.mark.usefixtures("ray_cluster")

N = 5
OPTIMUM = 1.0  # every step of every episode succeeds


def test_mat_solves_a_task_that_independent_policies_cannot() -> None:
    """Five agents must choose differently around a secret of the first: decentralised policies reach 1/5 at most."""
    assert independent_bound(N, N) == pytest.approx(0.2)
    algo = (
        MATConfig()
        .environment("coordination/distinct_choice", env_config={"n_agents": N})
        .training(train_batch_size_per_learner=800, num_epochs=5, lr=2e-3)
        .evaluation(evaluation_duration=100, evaluation_config={"explore": False})
        .debugging(seed=0)
        .build_algo()
    )
    start = time.monotonic()
    success = 0.0
    while success < 0.97 and time.monotonic() - start < 90:
        success = algo.train()["env_runners"]["win_rate"]
    evaluated = algo.evaluate()["env_runners"]["win_rate"]
    algo.stop()
    assert evaluated >= 0.95 * OPTIMUM
    assert evaluated > 4 * independent_bound(N, N)
