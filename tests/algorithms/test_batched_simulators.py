"""User-defined batched simulators train, evaluate and reload; defective ones are rejected before training."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_batch
from ray import cloudpickle
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.tune.registry import register_env
from toy_batch import ToyBatch, Walkers

from rllib_seqmarl import JointPolicy, MATConfig, make_joint_env
from rllib_seqmarl.envs import BatchedSimulator, JointEnvError, StepResult
from rllib_seqmarl.envs.batch_env import JointBatchEnv
from rllib_seqmarl.experiments.evaluation import evaluate, policy_env

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(autouse=True, scope="module")
def pickle_test_modules_by_value() -> Iterator[None]:
    """Remote workers cannot import the test modules."""
    modules = toy_batch, sys.modules[__name__]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    yield
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)


def config(env: Any, **env_config: Any) -> MATConfig:
    return (
        MATConfig()
        .environment(env, env_config=env_config)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=4)
        .training(train_batch_size_per_learner=40, num_epochs=1)
        .network(embed_dim=16)
        .evaluation(evaluation_interval=1, evaluation_duration=4)
    )


def make_walkers(num_envs: int, **options: Any) -> Walkers:
    return Walkers(num_envs, **options)


@pytest.mark.parametrize("how", ["class", "creator", "registered"])
def test_training_evaluation_and_reloading(how: str, tmp_path: Path) -> None:
    register_env("walkers", Walkers)
    env = {"class": Walkers, "creator": make_walkers, "registered": "walkers"}[how]
    algo = config(env, length=7).build_algo()
    assert isinstance(algo.env_runner.env.unwrapped, JointBatchEnv)
    assert algo.env_runner.env.unwrapped.batch.length == 7
    results = algo.train()
    assert math.isfinite(results["learners"][DEFAULT_MODULE_ID]["policy_loss"])
    assert results["evaluation"]["env_runners"]["episode_len_mean"] == 7
    algo.save_to_path(str(tmp_path))
    algo.stop()

    policy = JointPolicy.from_checkpoint(tmp_path)
    observations, _ = make_joint_env(env, {"length": 7}).env.reset(seed=0)
    assert policy.act(observations).keys() == {"a", "b"}
    register_env("Walkers", Walkers)  # the names stored in policies
    register_env("make_walkers", make_walkers)
    played = policy_env(policy, num_envs=3, render=True)
    assert isinstance(played, JointBatchEnv)
    evaluation = evaluate(policy, played, 5, draw=1)
    assert evaluation.lengths.tolist() == [7] * 5
    assert len(evaluation.frames) == 8


def test_a_single_environment_is_used_if_gymnasium_vectorizes() -> None:
    algo = config(Walkers).env_runners(gym_env_vectorize_mode="sync").build_algo()
    algo.train()
    assert not isinstance(algo.env_runner.env.unwrapped, JointBatchEnv)
    algo.stop()


class Few(Walkers):
    def __init__(self, num_envs: int):
        super().__init__(num_envs)
        self.num_envs = 3


class Doubles(Walkers):
    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        result = super().step(actions, reset_mask)
        return result._replace(terminated=result.terminated * 1.0)


DEFECTIVE: dict[str, tuple[Callable[..., BatchedSimulator], dict[str, Any], type[Exception], str]] = {
    "number": (
        Few,
        {},
        JointEnvError,
        "(?s)Few .* made with num_envs=4, but has 3. Set `self.num_envs` to the argument",
    ),
    "dtype": (Doubles, {}, JointEnvError, r"`terminated` as a NumPy array of bool \(B,\). At step 1: Its dtype"),
    "self-reset": (Walkers, {"resets_itself": True}, JointEnvError, "must return the final observation"),
    "option": (ToyBatch, {"continous": True}, ValueError, "ToyBatch has no option 'continous'. Did you mean 'continuo"),
}


@pytest.mark.parametrize(("defect", "num_env_runners"), [*((defect, 0) for defect in DEFECTIVE), ("self-reset", 1)])
def test_a_defective_simulator_is_rejected_before_training(defect: str, num_env_runners: int) -> None:
    env, env_config, error, message = DEFECTIVE[defect]
    with pytest.raises(error, match=message):
        config(env, **env_config).env_runners(num_env_runners=num_env_runners).build_algo()
