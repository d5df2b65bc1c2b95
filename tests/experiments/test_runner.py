"""Experiments run to completion, fail with a message and a checkpoint, and can be resumed."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from rllib_seqmarl.experiments import ExperimentError
from rllib_seqmarl.experiments.experiment import Experiment, parse_experiment
from rllib_seqmarl.experiments.experiment_record import config_changes, record
from rllib_seqmarl.experiments.progress import Progress
from rllib_seqmarl.experiments.ray_session import RaySession
from rllib_seqmarl.experiments.report import best_checkpoint, closing_message, results_table
from rllib_seqmarl.experiments.runner import Outcome, check_runnable, run_experiment

pytestmark = pytest.mark.usefixtures("ray_cluster")

ENV = "coordination/distinct_choice"
TINY = {
    "env_config": {"n_agents": 2},
    "num_envs_per_env_runner": 2,
    "train_batch_size_per_learner": 40,
    "num_epochs": 1,
    "embed_dim": 16,
}


def experiment(tmp_path: Path, config: dict[str, Any] | None = None, **spec: Any) -> Experiment:
    spec = {"run": "MAT", "env": ENV, "local_dir": str(tmp_path), "checkpoint_freq": 1} | spec
    spec["config"] = TINY | (config or {})
    return parse_experiment("tiny", spec, lambda *path: "test")


def run(one: Experiment, resume: bool = False) -> Outcome:
    return run_experiment(one, RaySession(), resume=resume)


@pytest.fixture(scope="module")
def grid(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A grid of two learning rates, completed."""
    folder = tmp_path_factory.mktemp("grid")
    return run(experiment(folder, {"lr": {"grid_search": [1e-3, 1e-4]}}, stop={"training_iteration": 2}))


def test_a_grid_is_completed_and_reported_best_first(grid: Outcome) -> None:
    assert not grid.failures and not grid.interrupted
    header, _, *rows = results_table(grid).splitlines()
    assert header.split("  ")[:2] == ["trial", ""] and "best return" in header and "lr" in header
    assert sorted(row.split()[1] for row in rows) == ["0.0001", "0.001"]
    best_returns = [float(row.split()[2]) for row in rows]
    assert best_returns == sorted(best_returns, reverse=True)
    checkpoint = best_checkpoint(grid)
    assert checkpoint is not None and Path(checkpoint).is_dir()
    assert f"rllib evaluate {checkpoint}" in closing_message(grid)
    kept = [sorted(path.name for path in Path(result.path).glob("checkpoint_*")) for result in grid.results]
    assert all(len(names) == 2 for names in kept)


def test_tune_run_takes_mat_and_an_optuna_search(tmp_path: Path) -> None:
    analysis = tune.run(
        "MAT",
        config=TINY | {"env": ENV, "lr": tune.loguniform(1e-4, 1e-2)},
        search_alg=OptunaSearch(metric="env_runners/episode_return_mean", mode="max", seed=1),
        num_samples=2,
        stop={"training_iteration": 1},
        storage_path=str(tmp_path),
        verbose=0,
    )
    rates = {trial.config["lr"] for trial in analysis.trials}
    assert len(rates) == 2 and all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert all(trial.status == "TERMINATED" for trial in analysis.trials)


@pytest.fixture
def failing_env(tmp_path: Path) -> Path:
    """Register an environment whose second agent's reward becomes NaN unless the returned file exists."""
    repaired = tmp_path / "repaired"

    def creator(env_config: dict[str, Any]) -> Any:
        from rllib_seqmarl.envs import make_env

        if env_config.get("unbuildable"):
            raise RuntimeError("the world cannot be built: 7 walls are missing")
        env = make_env("coordination/distinct_choice", {"n_agents": 2})
        step, taken = env.step, 0

        def failing_step(actions: Any) -> Any:
            nonlocal taken
            taken += 1
            observations, rewards, *rest = step(actions)
            if taken > 100 and not repaired.exists():
                rewards = rewards | {"agent_1": float("nan")}
            return observations, rewards, *rest

        env.step = failing_step
        return env

    tune.register_env("tests/failing", creator)
    return repaired


def test_a_late_failure_keeps_its_checkpoint_and_can_be_resumed_from_it(tmp_path: Path, failing_env: Path) -> None:
    one = experiment(tmp_path, {"env_config": {}}, env="tests/failing", stop={"training_iteration": 8})
    failed = run(one)
    (failure,) = failed.failures
    assert "agent 'agent_1': its reward is nan" in failure.message and "\n" not in failure.message
    assert failure.checkpoint is not None and Path(failure.checkpoint).is_dir()
    assert "in step_into" in Path(failure.error_file).read_text()
    message = closing_message(failed)
    assert failure.checkpoint in message and failure.error_file in message and "--resume" in message

    failing_env.touch()
    outcome = run(one, resume=True)
    assert not outcome.failures and not outcome.interrupted
    lines = (Path(outcome.results[0].path) / "result.json").read_text().splitlines()
    assert iterations(outcome) == [1, 2, 3, 4, 5, 6, 7, 8]
    steps = [json.loads(line)["num_env_steps_sampled_lifetime"] for line in lines]
    assert steps[-1] == 8 * 40


def test_an_environment_that_cannot_be_created_is_reported(tmp_path: Path, failing_env: Path) -> None:
    config = {"env_config": {"unbuildable": True}}
    (failure,) = run(experiment(tmp_path, config, env="tests/failing", stop={"training_iteration": 1})).failures
    assert failure.message == "the world cannot be built: 7 walls are missing"
    assert failure.checkpoint is None


def iterations(outcome: Outcome, trial: int = 0) -> list[int]:
    lines = (Path(outcome.results[trial].path) / "result.json").read_text().splitlines()
    with (Path(outcome.results[trial].path) / "progress.csv").open() as file:
        rows = [int(row["training_iteration"]) for row in csv.DictReader(file)]
    found = [json.loads(line)["training_iteration"] for line in lines]
    assert rows == found
    return found


def test_an_interrupted_run_continues_with_a_later_stop_and_another_config(tmp_path: Path, monkeypatch: Any) -> None:
    original: Callable[..., None] = Progress.on_trial_result

    def interrupt(self: Progress, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        original(self, iteration, trials, trial, result, **info)
        if result["training_iteration"] == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Progress, "on_trial_result", interrupt)
    outcome = run(experiment(tmp_path, stop={"training_iteration": 50}))
    assert outcome.interrupted and not outcome.failures
    assert best_checkpoint(outcome) is not None
    assert "Stopped before the end. The same command with --resume" in closing_message(outcome)
    monkeypatch.undo()

    # The files that a killed run leaves behind after Tune's last saved state.
    trial, done = Path(outcome.results[0].path), iterations(outcome)
    with (trial / "result.json").open("a") as file:
        file.write(json.dumps({"training_iteration": done[-1] + 1}) + '\n{"cut off')
    with (trial / "progress.csv").open("a") as file:
        columns = next(csv.reader((trial / "progress.csv").open()))
        file.write(",".join(str(done[-1] + 1) for _ in columns) + "\n")
    shutil.copytree(max(trial.glob("checkpoint_*")), trial / "checkpoint_000017")
    (tmp_path / "tiny" / "tuner.pkl").write_bytes(b"damaged")  # nothing depends on it

    outcome = run(experiment(tmp_path, {"num_epochs": 2}, stop={"env_steps": 6 * 40}), resume=True)
    assert not outcome.failures and not outcome.interrupted
    assert iterations(outcome) == [1, 2, 3, 4, 5, 6]
    last = outcome.results[0].metrics
    assert last["num_env_steps_sampled_lifetime"] == 6 * 40 and last["config"]["num_epochs"] == 2
    assert max(trial.glob("checkpoint_*")).name == "checkpoint_000005"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"lr": {"grid_search": [1e-3, 1e-5]}}}, r"config.lr \(part of the search space\): .*1e-05"),
        ({"config": {"lr": 1e-3}}, r"config.lr \(part of the search space\)"),
        ({"config": {"gamma": {"uniform": [0.9, 1.0]}}}, r"config.gamma \(part of the search space\): None -> "),
        ({"config": {"embed_dim": 32}}, r"config.embed_dim \(part of the network, whose weights are.*: 16 -> 32"),
        ({"env": "mpe/simple_spread"}, r"config.env \(the environment\)"),
        ({"num_samples": 3}, "num_samples: 1 -> 3"),
        ({"run": "MAM", "config": {"minibatch_size": None}}, "run: 'MAT' -> 'MAM'"),
        ({"scheduler": "asha"}, "scheduler: None -> "),
    ],
)
def test_settings_that_cannot_change_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    grid = {"lr": {"grid_search": [1e-3, 1e-4]}}
    old = experiment(tmp_path, grid, stop={"training_iteration": 2})
    config = grid | change.pop("config", {})
    if "env" in change:
        config["env_config"] = {}
    with pytest.raises(ExperimentError, match=f"^tiny: --resume cannot change .*{message}") as raised:
        config_changes(record(old), experiment(tmp_path, config, stop={"training_iteration": 2}, **change))
    assert "\n" not in str(raised.value)


def test_an_unreported_stop_criterion_ends_the_run_after_the_first_episodes(tmp_path: Path) -> None:
    with pytest.raises(
        ExperimentError, match="'env_runners/episode_retrun_mean' is not in the results. Did you mean"
    ) as e:
        run(experiment(tmp_path, stop={"env_runners/episode_retrun_mean": 2, "training_iteration": 50}))
    assert "--resume" in str(e.value)
    assert len(list(tmp_path.glob("tiny/MAT_*/checkpoint_*"))) > 0


def test_a_second_run_with_the_same_name_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "notes.txt").touch()
    with pytest.raises(ExperimentError, match="tiny already contains results"):
        run(experiment(tmp_path))


def test_a_damaged_state_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "experiment_state-2026-01-01_00-00-00.json").write_text('{"trial_data": [')
    with pytest.raises(
        ExperimentError, match="the run's state is damaged .*; start an experiment under another name"
    ) as e:
        run(experiment(tmp_path), resume=True)
    assert "\n" not in str(e.value)


def test_a_trial_can_start_from_another_trials_checkpoint(tmp_path: Path, grid: Outcome) -> None:
    checkpoint = best_checkpoint(grid)
    assert checkpoint is not None
    with pytest.raises(ExperimentError, match="is a checkpoint of MAT, not of MAM"):
        check_runnable([experiment(tmp_path, {"minibatch_size": None}, run="MAM", restore=checkpoint)], RaySession())
    folder = str(Path(grid.results[0].path).parent)
    outcome = run(experiment(tmp_path, stop={"training_iteration": 1}, restore=folder))
    assert outcome.results[0].metrics["num_env_steps_sampled_lifetime"] == 3 * 40


def test_a_trial_that_would_wait_forever_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="a trial needs 51 CPUs, but only 4 are available; lower num_env_runners"):
        check_runnable([experiment(tmp_path, {"num_env_runners": 50})], RaySession())
    with pytest.raises(ExperimentError, match="nowhere: no such folder"):
        check_runnable([experiment(tmp_path, restore="nowhere")], RaySession())


def test_experiments_whose_results_would_mix_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="two experiments are named 'tiny'"):
        check_runnable([experiment(tmp_path), experiment(tmp_path)], RaySession())
