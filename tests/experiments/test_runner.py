"""Experiments run to their end, fail with one message and a checkpoint, and are taken up again."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from rllib_seqmarl.experiments import ExperimentError
from rllib_seqmarl.experiments.experiment import Experiment, parse_experiment
from rllib_seqmarl.experiments.progress import Progress
from rllib_seqmarl.experiments.ray_session import RaySession
from rllib_seqmarl.experiments.report import best_checkpoint, closing_words, results_table
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


def test_a_grid_is_run_to_its_end_and_told_best_first(tmp_path: Path) -> None:
    outcome = run(experiment(tmp_path, {"lr": {"grid_search": [1e-3, 1e-4]}}, stop={"training_iteration": 2}))
    assert not outcome.failures and not outcome.interrupted
    header, _, *rows = results_table(outcome).splitlines()
    assert header.split("  ")[:2] == ["trial", ""] and "best return" in header and "lr" in header
    assert sorted(row.split()[1] for row in rows) == ["0.0001", "0.001"]
    best_returns = [float(row.split()[2]) for row in rows]
    assert best_returns == sorted(best_returns, reverse=True)
    checkpoint = best_checkpoint(outcome)
    assert checkpoint is not None and Path(checkpoint).is_dir()
    assert f"rllib evaluate {checkpoint}" in closing_words(outcome)
    kept = [sorted(path.name for path in Path(result.path).glob("checkpoint_*")) for result in outcome.results]
    assert all(len(names) == 2 for names in kept)


def test_tune_run_takes_mat_and_an_optuna_search(tmp_path: Path) -> None:
    analysis = tune.run(
        "MAT",
        config=TINY | {"env": ENV, "lr": tune.loguniform(1e-4, 1e-2)},
        search_alg=OptunaSearch(metric="env_runners/episode_return_mean", mode="max", seed=1),
        num_samples=3,
        stop={"training_iteration": 1},
        storage_path=str(tmp_path),
        verbose=0,
    )
    rates = {trial.config["lr"] for trial in analysis.trials}
    assert len(rates) == 3 and all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert all(trial.status == "TERMINATED" for trial in analysis.trials)


@pytest.fixture
def failing_env(tmp_path: Path) -> Path:
    """Registers an environment whose second agent's reward becomes NaN, until the returned file is there."""
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


def test_a_late_failure_keeps_its_checkpoint_and_resuming_goes_on_from_it(tmp_path: Path, failing_env: Path) -> None:
    one = experiment(tmp_path, {"env_config": {}}, env="tests/failing", stop={"training_iteration": 8})
    failed = run(one)
    (failure,) = failed.failures
    assert "agent 'agent_1': its reward is nan" in failure.message and "\n" not in failure.message
    assert failure.checkpoint is not None and Path(failure.checkpoint).is_dir()
    assert "in step_into" in Path(failure.error_file).read_text()
    words = closing_words(failed)
    assert failure.checkpoint in words and failure.error_file in words and "--resume" in words

    failing_env.touch()
    outcome = run(one, resume=True)
    assert not outcome.failures and not outcome.interrupted
    lines = (Path(outcome.results[0].path) / "result.json").read_text().splitlines()
    iterations = [json.loads(line)["training_iteration"] for line in lines]
    assert iterations[-1] == 8 and iterations == sorted(iterations)
    steps = [json.loads(line)["num_env_steps_sampled_lifetime"] for line in lines]
    assert steps[-1] == 8 * 40


def test_an_environment_that_cannot_be_made_is_told_in_its_own_words(tmp_path: Path, failing_env: Path) -> None:
    config = {"env_config": {"unbuildable": True}}
    (failure,) = run(experiment(tmp_path, config, env="tests/failing", stop={"training_iteration": 1})).failures
    assert failure.message == "the world cannot be built: 7 walls are missing"
    assert failure.checkpoint is None


def test_an_interrupt_keeps_the_checkpoint_and_says_how_to_go_on(tmp_path: Path, monkeypatch: Any) -> None:
    told: Callable[..., None] = Progress.on_trial_result

    def interrupt(self: Progress, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        told(self, iteration, trials, trial, result, **info)
        if result["training_iteration"] == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Progress, "on_trial_result", interrupt)
    one = experiment(tmp_path, stop={"training_iteration": 6})
    outcome = run(one)
    assert outcome.interrupted and not outcome.failures
    assert best_checkpoint(outcome) is not None
    assert "Stopped before the end. The same command with --resume" in closing_words(outcome)
    monkeypatch.undo()
    finished = run(one, resume=True)
    assert not finished.interrupted
    assert finished.results[0].metrics["training_iteration"] == 6


def test_a_trial_can_start_from_another_trials_checkpoint(tmp_path: Path) -> None:
    checkpoint = best_checkpoint(run(experiment(tmp_path / "a", stop={"training_iteration": 2})))
    assert checkpoint is not None
    outcome = run(experiment(tmp_path / "b", stop={"training_iteration": 1}, restore=checkpoint))
    assert outcome.results[0].metrics["num_env_steps_sampled_lifetime"] == 3 * 40


def test_a_trial_that_would_wait_for_ever_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="a trial needs 51 CPUs, but there are 4; lower num_env_runners"):
        check_runnable([experiment(tmp_path, {"num_env_runners": 50})], RaySession())
    with pytest.raises(ExperimentError, match="there is no checkpoint folder nowhere"):
        check_runnable([experiment(tmp_path, restore="nowhere")], RaySession())


def test_experiments_whose_results_would_mix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="two experiments are called 'tiny'"):
        check_runnable([experiment(tmp_path), experiment(tmp_path)], RaySession())
