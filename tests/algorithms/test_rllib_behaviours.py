"""PPO features of RLlib work for joint policies: workers, learners, callbacks, connectors, recording."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rllib_seqmarl import MAT, JointPolicy, MATConfig
from rllib_seqmarl.learners.joint_ppo_torch_learner import NonFiniteLossError

pytestmark = pytest.mark.usefixtures("ray_cluster")

ENV = "coordination/distinct_choice"


def small_config() -> MATConfig:
    return (
        MATConfig()
        .environment(ENV, env_config={"n_agents": 3, "max_cycles": 5})
        .env_runners(num_envs_per_env_runner=4)
        .training(train_batch_size_per_learner=40, num_epochs=2, lr=1e-3)
        .network(embed_dim=16)
        .debugging(seed=1)
    )


def test_training_results_have_the_usual_multi_agent_metrics() -> None:
    algo = small_config().build_algo()
    result = algo.train()
    algo.stop()
    runner, learner = result["env_runners"], result["learners"][DEFAULT_MODULE_ID]
    agents = runner["agent_episode_returns_mean"]
    assert sorted(agents) == ["agent_0", "agent_1", "agent_2"]
    assert runner["episode_return_mean"] == pytest.approx(np.mean(list(agents.values())))
    assert 0.0 <= runner["win_rate"] <= 1.0
    assert runner["num_env_steps_sampled_lifetime_throughput"]["throughput_since_last_reduce"] > 0
    for key in (
        "policy_loss",
        "vf_loss",
        "vf_explained_var",
        "entropy",
        "clip_fraction",
        "approx_kl",
        "gradients_default_optimizer_global_norm",
    ):
        assert math.isfinite(learner[key]), key
    assert learner["entropy"] == pytest.approx(math.log(3), abs=0.05)  # an untrained policy is nearly uniform


def test_the_return_is_reported_before_the_first_episode_ends() -> None:
    algo = small_config().environment(ENV, env_config={"n_agents": 3, "max_cycles": 1000}).build_algo()
    assert math.isnan(algo.train()["env_runners"]["episode_return_mean"])
    algo.stop()


def counting_callback() -> type[RLlibCallback]:
    """Return a user callback; a local class, since workers cannot import this file."""

    class CountSteps(RLlibCallback):
        def on_episode_end(self, *, episode: Any, metrics_logger: Any, **kwargs: Any) -> None:
            metrics_logger.log_value("steps_of_my_episodes", len(episode), window=10)

    return CountSteps


def halving_connector() -> Callable[..., ConnectorV2]:
    """Return a user connector that halves observations in episodes, and so also for the learner."""

    class Halve(ConnectorV2):
        def __call__(self, *, batch: Any, episodes: Any, **kwargs: Any) -> Any:
            for episode in self.single_agent_episode_iterator(episodes):
                obs = dict(episode.get_observations(-1))
                obs["observations"] = obs["observations"] * 0.5
                episode.set_observations(at_indices=-1, new_data=obs)
            return batch

    return lambda *args, **kwargs: Halve()


def test_remote_runners_evaluation_callbacks_and_connectors(tmp_path: Path) -> None:
    config = (
        small_config()
        .env_runners(num_env_runners=1, env_to_module_connector=halving_connector())
        .callbacks(counting_callback())
        .evaluation(
            evaluation_interval=1,
            evaluation_num_env_runners=1,
            evaluation_duration=3,
            evaluation_config={"explore": False},
        )
    )
    algo = config.build_algo()
    result = algo.train()
    assert result["env_runners"]["steps_of_my_episodes"] == 5
    assert "win_rate" in result["evaluation"]["env_runners"]
    assert algo.evaluate()["env_runners"]["episode_len_mean"] == 5
    assert algo.get_module().network.config.embed_dim == 16

    checkpoint = algo.save_to_path(str(tmp_path / "checkpoint"))
    algo.stop()
    with pytest.raises(ValueError, match="custom connectors.*Algorithm.from_checkpoint"):
        JointPolicy.from_checkpoint(checkpoint)


def weights(algo: Algorithm) -> dict[str, torch.Tensor]:
    return {key: torch.as_tensor(value) for key, value in algo.get_module().get_state().items()}


def test_two_learners_compute_the_same_update_as_one() -> None:
    one = small_config().training(num_epochs=1).build_algo()
    two = (
        small_config()
        .training(num_epochs=1, train_batch_size_per_learner=20)
        .learners(num_learners=2, num_cpus_per_learner=1)
        .build_algo()
    )
    two.learner_group.set_weights(one.learner_group.get_weights())
    episodes = one.env_runner.sample(num_timesteps=40)
    one.learner_group.update(episodes=[episode[:] for episode in episodes])
    two.learner_group.update(episodes=[episode[:] for episode in episodes])
    expected = one.learner_group.get_weights()[DEFAULT_MODULE_ID]
    for key, value in two.learner_group.get_weights()[DEFAULT_MODULE_ID].items():
        np.testing.assert_allclose(value, expected[key], atol=2e-5, err_msg=key)
    result = two.train()
    assert math.isfinite(result["learners"][DEFAULT_MODULE_ID]["policy_loss"])
    one.stop()
    two.stop()


def test_minibatches_cover_the_batch() -> None:
    algo = small_config().training(minibatch_size=10, num_epochs=3).build_algo()
    algo.train()
    optimizer = algo.learner_group._learner.get_optimizer()
    steps = {int(state["step"]) for state in optimizer.state.values()}
    assert steps == {3 * 40 // 10}
    algo.stop()


def test_experience_is_recorded_for_offline_use(tmp_path: Path) -> None:
    algo = (
        small_config()
        .env_runners(batch_mode="complete_episodes")  # RLlib records whole episodes only
        .offline_data(output=str(tmp_path), output_max_rows_per_file=1)
        .build_algo()
    )
    algo.train()
    algo.stop()
    assert list(tmp_path.rglob("*.parquet"))


def test_tune_finds_the_algorithm_by_name(tmp_path: Path) -> None:
    config = small_config().environment(env_config={"n_agents": 3, "max_cycles": 1000}).to_dict()
    stop = {"training_iteration": 1, "env_runners/episode_return_mean": 900.0}  # before any episode ends
    results = tune.Tuner(
        "MAT",
        param_space=config | {"lr": tune.grid_search([1e-3, 1e-4])},
        run_config=tune.RunConfig(stop=stop, storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert not results.errors
    assert {result.config["lr"] for result in results} == {1e-3, 1e-4}


def test_a_non_finite_loss_stops_training_before_it_is_applied() -> None:
    algo = small_config().build_algo()
    algo.train()
    before = weights(algo)
    episodes = algo.env_runner.sample(num_timesteps=40)
    for episode in episodes:
        episode.extra_model_outputs[Columns.ACTION_LOGP].data[:] = np.nan
    with pytest.raises(NonFiniteLossError, match="lower `lr`"):
        algo.learner_group.update(episodes=episodes)
    after = weights(algo)
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("network."))
    algo.stop()


def test_all_ways_to_specify_an_environment(tmp_path: Path) -> None:
    from rllib_seqmarl.envs.suites.coordination import DistinctChoice

    options = {"n_agents": 2, "max_cycles": 3}
    tune.register_env("my_choice", lambda env_config: DistinctChoice(**env_config))
    for env in ("my_choice", DistinctChoice, lambda env_config: DistinctChoice(**env_config)):
        config = small_config().environment(env, env_config=options)
        config.validate()
        runner = SingleAgentEnvRunner(config=config)
        assert runner.sample(num_episodes=1)[0].get_state()
        runner.stop()


def test_the_algorithm_class_is_restored_from_a_checkpoint(tmp_path: Path) -> None:
    algo = small_config().build_algo()
    algo.train()
    path = algo.save_to_path(str(tmp_path))
    restored = Algorithm.from_checkpoint(path)
    assert isinstance(restored, MAT)
    expected = weights(algo)
    assert all(torch.equal(value, expected[key]) for key, value in weights(restored).items())
    assert restored.train()["num_env_steps_sampled_lifetime"] == 80
    algo.stop()
    restored.stop()
