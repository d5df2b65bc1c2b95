"""Training starts from a trained policy's weights on every worker; weights of restored checkpoints take precedence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_seqmarl import JointPolicy, MATConfig
from rllib_seqmarl.experiments import ExperimentError
from rllib_seqmarl.experiments.experiment import parse_experiment
from rllib_seqmarl.experiments.ray_session import RaySession
from rllib_seqmarl.experiments.runner import run_experiment

pytestmark = pytest.mark.usefixtures("ray_cluster")

DISTINCT = "coordination/distinct_choice"
Weights = dict[str, np.ndarray]


def config(n_agents: int = 3, path: Path | str | None = None) -> MATConfig:
    return (
        MATConfig()
        .environment(DISTINCT, env_config={"n_agents": n_agents, "max_cycles": 5})
        .env_runners(num_envs_per_env_runner=4)
        .training(train_batch_size_per_learner=40, num_epochs=2)
        .network(embed_dim=16, initial_policy=None if path is None else str(path))
        .debugging(seed=1)
    )


@pytest.fixture(scope="module")
def trained(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a team of three and return its checkpoint."""
    algo = config().debugging(seed=7).build_algo()
    algo.train()
    path = tmp_path_factory.mktemp("trained")
    algo.save_to_path(str(path))
    algo.stop()
    return path


def weights_of(policy: JointPolicy) -> Weights:
    network = {f"network.{name}": value for name, value in policy.network.state_dict().items()}
    assert policy.value_normalizer is not None
    normalizer = {f"value_normalizer.{name}": value for name, value in policy.value_normalizer.state_dict().items()}
    return {name: value.detach().numpy() for name, value in {**network, **normalizer}.items()}


def assert_same(found: Any, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), value, err_msg=name)


def test_all_workers_start_from_it(trained: Path) -> None:
    expected = weights_of(JointPolicy.from_checkpoint(trained))
    algo = (
        config(path=trained)
        .env_runners(num_env_runners=1)
        .learners(num_learners=2, num_cpus_per_learner=1)
        .evaluation(evaluation_interval=1)
        .build_algo()
    )
    learners = algo.learner_group.foreach_learner(lambda learner: learner.module[DEFAULT_MODULE_ID].get_state())
    groups = algo.env_runner_group, algo.eval_env_runner_group
    runners = [
        state for group in groups for state in group.foreach_env_runner(lambda runner: runner.module.get_state())
    ]
    states = [result.get() for result in learners] + runners
    assert len(states) == 5  # two learners, a local and a remote env runner, and one for evaluation
    for state in states:
        assert_same(state, expected)
    result = algo.train()
    assert np.isfinite(result["learners"][DEFAULT_MODULE_ID]["total_loss"])
    algo.stop()


def test_an_exported_policy_is_accepted(trained: Path, tmp_path: Path) -> None:
    policy = JointPolicy.from_checkpoint(trained)
    policy.save(tmp_path / "team")
    for name in ("team", "team.safetensors"):
        algo = config(path=tmp_path / name).build_algo()
        assert_same(algo.get_module().get_state(), weights_of(policy))
        algo.stop()


def test_a_larger_team_takes_the_shared_parameters(trained: Path) -> None:
    old, fresh = weights_of(JointPolicy.from_checkpoint(trained)), config(4).build_algo()
    begun = config(4, trained).build_algo()
    before, after = fresh.get_module().get_state(), begun.get_module().get_state()
    # Three observation entries and three agent ids become four and four.
    columns = "network.encoder.embedding.1.weight"
    np.testing.assert_array_equal(after[columns][:, [0, 1, 2, 4, 5, 6]], old[columns])
    np.testing.assert_array_equal(after[columns][:, [3, 7]], before[columns][:, [3, 7]])
    rows = "network.head.policy.3.weight"
    np.testing.assert_array_equal(after[rows][:3], old[rows])
    np.testing.assert_array_equal(after[rows][3], before[rows][3])
    value, normalizer = "network.encoder.value.0.weight", "value_normalizer.mean_square"
    for name in (value, normalizer):
        np.testing.assert_array_equal(after[name], old[name])
        assert not np.array_equal(after[name], before[name])
    begun.train()
    fresh.stop(), begun.stop()


def test_a_restored_checkpoint_keeps_its_weights_without_the_initial_policy(trained: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    shutil.copytree(trained, start)
    algo = config(path=start).build_algo()
    algo.train()
    expected = {name: np.array(value) for name, value in algo.get_module().get_state().items()}
    algo.save_to_path(str(tmp_path / "later"))
    assert not np.array_equal(
        expected["network.head.policy.3.weight"],
        weights_of(JointPolicy.from_checkpoint(trained))["network.head.policy.3.weight"],
    )
    algo.restore_from_path(str(tmp_path / "later"))
    assert_same(algo.get_module().get_state(), expected)
    algo.stop()

    shutil.rmtree(start)
    restored = Algorithm.from_checkpoint(str(tmp_path / "later"))
    assert_same(restored.get_module().get_state(), expected)
    restored.train()
    restored.stop()


def test_incompatible_policies_are_rejected_by_validation(trained: Path, tmp_path: Path) -> None:
    for made, message in (
        (config(path=tmp_path / "nowhere"), "nowhere holds no policy of this package"),
        (config(path=tmp_path), "holds no policy of this package"),
        (config(path=trained).network(embed_dim=32), "it has embed_dim=16, but here embed_dim=32. Set embed_dim=16."),
        (config(path=trained).network(encoder_mixer="mamba"), "it has encoder_mixer='attention', but here"),
        (config(path=trained).training(use_value_norm=False), "Set use_value_norm=True."),
        (config().network(initial_policy=3), "initial_policy=3 is not the path of a checkpoint"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError) as error:
            made.validate()
        assert message in str(error.value) and "initial_policy" in str(error.value)


def test_a_team_with_another_kind_of_actions_is_rejected(trained: Path) -> None:
    made = MATConfig().environment("mpe/simple_spread", env_config={"continuous_actions": True})
    made.network(embed_dim=16, initial_policy=str(trained))
    with pytest.raises(ValueError, match="its actions are discrete, but here they are continuous"):
        made.build_algo()


def test_experiment_files_accept_it(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.parent)
    spec = {
        "run": "MAT",
        "env": DISTINCT,
        "local_dir": str(tmp_path),
        "checkpoint_at_end": True,
        "stop": {"training_iteration": 1},
        "config": {
            "env_config": {"n_agents": 4},
            "num_envs_per_env_runner": 2,
            "train_batch_size_per_learner": 40,
            "embed_dim": 16,
            "lr": 0.0,
            "initial_policy": trained.name,  # relative to where the experiment is started
        },
    }
    outcome = run_experiment(parse_experiment("tuned", spec, lambda *path: "file:1"), RaySession())
    assert not outcome.failures
    (result,) = outcome.results
    found = weights_of(JointPolicy.from_checkpoint(result.checkpoint.path))
    rows = "network.head.policy.3.weight"
    np.testing.assert_array_equal(found[rows][:3], weights_of(JointPolicy.from_checkpoint(trained))[rows])

    spec["config"] |= {"initial_policy": "nowhere"}
    with pytest.raises(ExperimentError, match=r"file:1: initial_policy='nowhere' cannot be used: .*holds no policy"):
        parse_experiment("tuned", spec, lambda *path: "file:1")


def test_pretraining_on_smaller_teams_helps_a_larger_one(tmp_path: Path) -> None:
    """A team of five learns faster from a policy for teams of three and four than from scratch."""

    def config_of(env: str, env_config: dict[str, Any]) -> MATConfig:
        return (
            MATConfig()
            .environment(env, env_config=env_config)
            .env_runners(num_envs_per_env_runner=16)
            .training(train_batch_size_per_learner=1000, num_epochs=10, lr=1e-3)
            .network(embed_dim=32)
            .debugging(seed=0)
        )

    def learn(made: MATConfig, iterations: int, path: Path | None = None) -> dict[str, Any]:
        algo = made.build_algo()
        for _ in range(iterations):
            found = algo.train()["env_runners"]
        if path is not None:
            algo.save_to_path(str(path))
        algo.stop()
        return found

    tasks = [{"name": DISTINCT, "env_config": {"n_agents": n_agents}} for n_agents in (3, 4)]
    found = learn(config_of("multitask/mixture", {"tasks": tasks}), 25, tmp_path)
    labels = [f"{DISTINCT}(n_agents={n_agents})" for n_agents in (3, 4)]
    for label in labels:
        assert found["task_returns_mean"][label] > 5.0
        assert found["task_win_rates"][label] == pytest.approx(found["task_returns_mean"][label] / 10)
    five = config_of(DISTINCT, {"n_agents": 5})
    from_scratch = learn(five.copy(copy_frozen=False), 8)["win_rate"]
    pretrained = learn(five.network(initial_policy=str(tmp_path)), 8)["win_rate"]
    assert pretrained > 0.2 > 0.1 > from_scratch  # 0.2 is the optimum of decentralised policies
