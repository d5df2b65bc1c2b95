"""The algorithms solve a task that provably needs a joint policy."""

from __future__ import annotations

import time

import pytest
from coordination_bounds import independent_bound

from rllib_seqmarl import HAPPOConfig, IPPOConfig, MAMConfig, MAPPOConfig, MARWKVConfig, MATConfig, MATDecConfig
from rllib_seqmarl.algorithms import JointPPOConfig

pytestmark = pytest.mark.usefixtures("ray_cluster")

N = 5
OPTIMUM = 1.0  # every step of every episode succeeds


PRESETS: dict[str, JointPPOConfig] = {
    "MAT": MATConfig(),
    "MAM": MAMConfig().network(d_state=8),
    "MARWKV v4": MARWKVConfig().network(version=4),
    "MARWKV v5": MARWKVConfig().network(version=5),
    "MARWKV v6": MARWKVConfig().network(version=6, n_head=4),
    "attention encoder, RWKV decoder": MARWKVConfig().network(version=4, encoder_mixer="attention"),
}


# The default rate of this test is unstable for this preset.
LEARNING_RATES = {"attention encoder, RWKV decoder": 1e-3}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_task_that_independent_policies_cannot_solve(preset: str) -> None:
    """Five agents must choose differently given a secret of the first: decentralised policies reach at most 1/5."""
    assert independent_bound(N, N) == pytest.approx(0.2)
    algo = (
        PRESETS[preset]
        .copy(copy_frozen=False)
        .environment("coordination/distinct_choice", env_config={"n_agents": N})
        .env_runners(num_envs_per_env_runner=32)
        .training(
            train_batch_size_per_learner=800,
            minibatch_size=None,
            num_epochs=5,
            lr=LEARNING_RATES.get(preset, 2e-3),
            clip_param=0.2,
            gamma=0.0,  # a step's success depends on that step alone
        )
        .network(embed_dim=64)
        .evaluation(evaluation_duration=100, evaluation_config={"explore": False})
        .debugging(seed=0)
        .build_algo()
    )
    start = time.monotonic()
    success = 0.0
    while success < 0.97 and time.monotonic() - start < 120:
        success = algo.train()["env_runners"]["win_rate"]
    win_rate = algo.evaluate()["env_runners"]["win_rate"]
    algo.stop()
    assert win_rate >= 0.95 * OPTIMUM
    assert win_rate > 4 * independent_bound(N, N)


@pytest.mark.parametrize(
    "config", [MAPPOConfig(), IPPOConfig(), MATDecConfig(), HAPPOConfig()], ids=["MAPPO", "IPPO", "MAT-Dec", "HAPPO"]
)
def test_independent_policies_reach_their_bound_and_no_more(config: JointPPOConfig) -> None:
    """The bound of three agents is 1/3; random choices succeed in 2 of 27 steps."""
    bound = independent_bound(3, 3)
    algo = (
        config.copy(copy_frozen=False)
        .environment("coordination/distinct_choice", env_config={"n_agents": 3})
        .env_runners(num_envs_per_env_runner=32)
        .training(train_batch_size_per_learner=800, num_epochs=5, lr=2e-3, gamma=0.0)
        .evaluation(evaluation_duration=400, evaluation_config={"explore": False})
        .debugging(seed=0)
        .build_algo()
    )
    for _ in range(25):
        algo.train()
    win_rate = algo.evaluate()["env_runners"]["win_rate"]
    algo.stop()
    assert win_rate == pytest.approx(bound, abs=0.04)  # of 4,000 steps, five standard deviations


@pytest.mark.parametrize("memory", [None, "gru", "rwkv6"])
def test_a_task_that_policies_without_memory_cannot_solve(memory: str | None) -> None:
    """Two agents must repeat one of four cues six steps later: without memory, 1 in 16 episodes succeeds."""
    options = {} if memory is None else {"memory": memory, "max_seq_len": 6}
    if memory == "gru":
        options["memory_options"] = {"max_delay": 6}
    algo = (
        MAPPOConfig()
        .environment("coordination/recall", env_config={"max_cycles": 6})
        .env_runners(num_envs_per_env_runner=64)
        .training(train_batch_size_per_learner=384, minibatch_size=None, num_epochs=5, lr=1e-3, entropy_coeff=0.02)
        .training(gamma=1.0, lambda_=1.0, clip_param=0.2)
        .network(**options)
        .evaluation(evaluation_duration=400, evaluation_config={"explore": False})
        .debugging(seed=0)
        .build_algo()
    )
    success, iterations = 0.0, 0
    while success < 0.99 and iterations < (15 if memory is None else 120):
        success, iterations = algo.train()["env_runners"]["win_rate"], iterations + 1
    win_rate = algo.evaluate()["env_runners"]["win_rate"]
    algo.stop()
    if memory is None:
        assert win_rate < 1 / 16 + 0.05  # four standard deviations
    else:
        assert win_rate > 0.9
