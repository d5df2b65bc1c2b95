"""Sampling of batches from several env runners, also while the learner uses the previous batch."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import DIFF_NUM_GRAD_UPDATES_VS_SAMPLER_POLICY

from rllib_seqmarl import MATConfig
from rllib_seqmarl.algorithms.sampler import training_data
from rllib_seqmarl.learners.distributed import LearnersFailedError
from rllib_seqmarl.learners.joint_ppo_torch_learner import NonFiniteLossError
from rllib_seqmarl.learners.rollout_data import EpisodeData, RolloutData
from rllib_seqmarl.rollouts import Rollout

pytestmark = pytest.mark.usefixtures("ray_cluster")

CHOICE = "coordination/distinct_choice"


def config(env: Any = CHOICE, **runners: Any) -> MATConfig:
    return (
        MATConfig()
        .environment(env, env_config={"n_agents": 3, "max_cycles": 5})
        .env_runners(num_envs_per_env_runner=4, **runners)
        .training(train_batch_size_per_learner=80, num_epochs=2, lr=1e-3)
        .network(embed_dim=16)
        .debugging(seed=1)
        .fault_tolerance(delay_between_env_runner_restarts_s=0.1)
    )


def dies_once(sign: Path, at_step: int) -> Callable[..., Any]:
    """Return a creator of an environment that kills the first env runner once and creates the file `sign`."""
    file = str(sign)

    def create(env_context: Any) -> Any:
        import os

        from rllib_seqmarl.envs.suites.coordination import DistinctChoice

        class Deadly(DistinctChoice):
            steps = 0

            def step(self, actions: dict[str, int]) -> Any:
                self.steps += 1
                if self.steps == at_step and env_context.worker_index == 1 and not os.path.exists(file):
                    open(file, "w").close()
                    os._exit(1)
                return super().step(actions)

        return Deadly(**env_context)

    return create


def test_remaining_runners_complete_the_iteration(tmp_path: Path) -> None:
    """If a runner dies while sampling, the others fill the batch, and each step is counted once.

    The restarted runner has new environments and the current weights.
    """
    died = tmp_path / "died"
    algo = config(dies_once(died, at_step=13), num_env_runners=2).build_algo()
    steps = []
    for iteration in range(1, 4):
        result = algo.train()
        steps.append(result["num_env_steps_sampled_lifetime"])
        learned = result["learners"][DEFAULT_MODULE_ID]["num_module_steps_trained_lifetime"]
        assert learned == 2 * steps[-1], "both epochs of every iteration use each sampled step once"
        assert steps[-1] >= 80 * iteration
    assert died.exists()
    assert steps[-1] <= 3 * 80 + 16  # at most the rounding to whole vector steps

    for _ in range(100):
        algo.train()
        if algo.env_runner_group.num_healthy_remote_workers() == 2:
            break
        time.sleep(0.1)
    algo.train()
    expected = algo.learner_group.get_weights()[DEFAULT_MODULE_ID]
    states = algo.env_runner_group.foreach_env_runner(lambda runner: runner.module.get_state(), local_env_runner=False)
    assert len(states) == 2
    for state in states:
        for key, value in state.get(DEFAULT_MODULE_ID, state).items():
            np.testing.assert_array_equal(value, expected[key], err_msg=key)
    algo.stop()


def test_runners_share_a_batch_and_have_independent_random_numbers() -> None:
    algo = config(num_env_runners=2).build_algo()
    samples, reports = algo._sampler.take()
    assert len(samples) == len(reports) == 2
    assert all(isinstance(sample, Rollout) for sample in samples)
    assert sum(sample.env_steps for sample in samples) == 80
    assert samples[0].outputs["actions"].tobytes() != samples[1].outputs["actions"].tobytes()
    algo.stop()


@pytest.mark.parametrize("num_env_runners", [0, 1])
def test_prefetched_samples_are_one_update_old(num_env_runners: int) -> None:
    def train() -> list[tuple[float, ...]]:
        algo = config(num_env_runners=num_env_runners).training(sample_while_learning=True).build_algo()
        rows = []
        for _ in range(3):
            result = algo.train()
            learned = result["learners"][DEFAULT_MODULE_ID]
            age = learned[DIFF_NUM_GRAD_UPDATES_VS_SAMPLER_POLICY]
            rows.append((age, result["num_env_steps_sampled_lifetime"], learned["policy_loss"]))
        algo.stop()
        return rows

    first = train()
    ages, steps, _ = zip(*first, strict=True)
    assert ages == (1, 2, 2)  # RLlib counts the current update
    assert steps == (80, 160, 240)
    assert train() == first


def test_an_error_while_prefetching_is_raised() -> None:
    def create(**options: Any) -> Any:
        from rllib_seqmarl.envs.suites.coordination import DistinctChoice

        class Failing(DistinctChoice):
            steps = 0

            def step(self, actions: dict[str, int]) -> Any:
                self.steps += 1
                if self.steps > 30:
                    raise RuntimeError("the simulator crashed")
                return super().step(actions)

        return Failing(**options)

    algo = config(create).training(sample_while_learning=True).build_algo()
    with pytest.raises(RuntimeError, match="the simulator crashed"):
        for _ in range(3):
            algo.train()
    algo.stop()


def test_training_with_prefetching_resumes_from_a_checkpoint(tmp_path: Path) -> None:
    algo = config().training(sample_while_learning=True).build_algo()
    algo.train()
    path = algo.save_to_path(str(tmp_path))
    algo.stop()
    restored = type(algo).from_checkpoint(path)
    assert restored.config.sample_while_learning
    assert restored.train()["num_env_steps_sampled_lifetime"] >= 160
    restored.stop()


def test_rollouts_and_episodes_become_training_data() -> None:
    algo = config().build_algo()
    rollout = algo.env_runner.sample()
    made = algo.config
    data = training_data([rollout, rollout], made)
    assert isinstance(data, RolloutData)
    assert data.env_steps == 160
    shares = data.shard(2)
    assert [share.env_steps for share, _ in shares] == [80, 80]
    mixed = training_data([rollout, list(rollout)], made)
    assert mixed.episodes is not None and len(mixed.episodes) == 2 * len(rollout)
    with pytest.raises(ValueError, match="no rollout"):
        RolloutData().validate()
    algo.stop()


def test_two_learners_learn_from_rollouts_like_one() -> None:
    one = config().training(num_epochs=1).build_algo()
    two = config().training(num_epochs=1, train_batch_size_per_learner=40)
    two_learners = two.learners(num_learners=2, num_cpus_per_learner=1).build_algo()
    two_learners.learner_group.set_weights(one.learner_group.get_weights())
    rollout = one.env_runner.sample()
    for algo in (one, two_learners):
        algo.learner_group.update(training_data=RolloutData(rollouts=[rollout]))
    expected = one.learner_group.get_weights()[DEFAULT_MODULE_ID]
    for key, value in two_learners.learner_group.get_weights()[DEFAULT_MODULE_ID].items():
        np.testing.assert_allclose(value, expected[key], atol=2e-5, err_msg=key)
    one.stop()
    check_that_learners_stay_together(two_learners, rollout)
    two_learners.stop()


def check_that_learners_stay_together(algo: Algorithm, rollout: Rollout) -> None:
    """Check that learners finish an update together, with uneven shares and after errors."""
    group = algo.learner_group

    def steps_and_weights() -> list[tuple[int, float]]:
        def read(learner: Any) -> tuple[int, float]:
            state = next(iter(learner.get_optimizer().state.values()))
            module = learner.module["default_policy"]
            return int(state["step"]), sum(float(p.detach().abs().sum()) for p in module.parameters())

        for learner in range(2):
            group._worker_manager.set_actor_state(learner, healthy=True)  # RLlib marks failed learners as unhealthy
        return [result.get() for result in group.foreach_learner(read)]

    def break_the_second(learner: Any) -> None:
        if learner._learner_index == 1:
            learner._weigh = lambda columns: columns["my loss"]

    # The first learner's environments have twice as many steps as the second one's.
    uneven = copy.deepcopy(rollout)
    uneven.is_step[uneven.num_rows // 2 :, uneven.num_envs // 2 :] = False
    done, _ = steps_and_weights()[0]
    for data, minibatches in ((RolloutData(rollouts=[uneven]), 2 * 60 // 20), (EpisodeData(episodes=list(uneven)), 6)):
        group.update(training_data=data, minibatch_size=10, num_epochs=2)
        done += minibatches
        first, second = steps_and_weights()
        assert first[0] == second[0] == done and first[1] == pytest.approx(second[1], abs=1e-5)
    algo.train()  # minibatch_size=None: each uses its whole share

    # Both learners reject non-finite values in one share, and can then continue.
    before = steps_and_weights()
    bad = copy.deepcopy(rollout)
    bad.outputs["action_logp"][2, 0] = np.nan
    with pytest.raises(NonFiniteLossError, match="lower `lr`"):
        group.update(training_data=RolloutData(rollouts=[bad]))
    assert steps_and_weights() == before
    group.update(training_data=RolloutData(rollouts=[rollout]))

    # If only one learner raises an error, the other does not wait for it.
    group.foreach_learner(break_the_second)
    start = time.perf_counter()
    with pytest.raises(LearnersFailedError, match="Learner 1 failed with KeyError: 'my loss'"):
        group.update(training_data=RolloutData(rollouts=[rollout]))
    assert time.perf_counter() - start < 60
    with pytest.raises(LearnersFailedError, match="Restore the last checkpoint"):
        algo.train()


def doubling_connector() -> Callable[..., Any]:
    """Return a user's learner connector, which processes episodes; a local class, so that workers can unpickle it."""
    from ray.rllib.connectors.connector_v2 import ConnectorV2

    class Double(ConnectorV2):
        def __call__(self, *, batch: Any, episodes: Any, **kwargs: Any) -> Any:
            for episode in self.single_agent_episode_iterator(episodes, agents_that_stepped_only=False):
                rewards = np.asarray(episode.get_rewards())
                episode.set_rewards(new_data=2.0 * rewards)
            return batch

    return lambda *args, **kwargs: Double()


def test_a_user_learner_connector_gets_episodes() -> None:
    plain = config().training(num_epochs=1, shared_reward=True).build_algo()
    doubled = config().training(num_epochs=1, shared_reward=True)
    doubled_algo = doubled.training(learner_connector=doubling_connector()).build_algo()
    results = []
    for algo in (plain, doubled_algo):
        torch.manual_seed(0)
        rollout = algo.env_runner.sample()
        learner = algo.learner_group._learner
        batch = learner._make_batch(RolloutData(rollouts=[rollout])).policy_batches[DEFAULT_MODULE_ID]
        results.append((float(rollout.rewards.sum()), float(batch["value_targets"].abs().mean())))
        algo.stop()
    assert results[1][1] > 1.5 * results[0][1]
