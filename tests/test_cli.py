"""The `rllib` command-line interface."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from rllib_seqmarl.cli import main
from rllib_seqmarl.version import __version__

TINY = "env_config: {n_agents: 2}, num_envs_per_env_runner: 2, train_batch_size_per_learner: 40, num_epochs: 1"


def rllib(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def error_of(*arguments: str | Path) -> str:
    result = rllib(*arguments)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    return line.removeprefix("Error: ")


@pytest.fixture(scope="module")
def sweep(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The results folder and the output of a small Optuna sweep from a file."""
    folder = tmp_path_factory.mktemp("sweep")
    file = folder / "sweep.yaml"
    text = f"""
        sweep:
          run: MAT
          env: coordination/distinct_choice
          stop: {{training_iteration: 2}}
          num_samples: 2
          config: {{{TINY}}}
          search:
            algorithm: optuna
            seed: 1
            max_concurrent: 2
            space:
              lr: {{loguniform: [1e-4, 1e-2]}}
              embed_dim: {{choice: [8, 16]}}
    """
    file.write_text(dedent(text))
    result = rllib("train", "file", file, "--local-dir", folder)
    assert result.exit_code == 0, result.output
    yield folder / "sweep", result.output


def test_a_file_alone_runs_a_bayesian_sweep(sweep: tuple[Path, str]) -> None:
    folder, output = sweep
    assert "sweep 1/2 |" in output and "steps/s" in output and " left" in output
    table = output[output.index("trial ") :].splitlines()
    assert table[0].split()[:3] == ["trial", "lr", "embed_dim"] or table[0].split()[:3] == [
        "trial",
        "embed_dim",
        "lr",
    ]
    rows = [line.split() for line in table[2:4]]
    assert sorted(row[0] for row in rows) == ["1", "2"] and all(row[-1] == "done" for row in rows)
    params = [json.loads(path.read_text()) for path in folder.glob("MAT_*/params.json")]
    assert len({param["lr"] for param in params}) == 2
    assert all(1e-4 <= param["lr"] <= 1e-2 and param["embed_dim"] in (8, 16) for param in params)


def test_evaluate_plays_and_renders_the_best_trial_of_an_experiment(sweep: tuple[Path, str], tmp_path: Path) -> None:
    result = rllib("evaluate", sweep[0], "--episodes", "3", "--render", tmp_path / "team.gif")
    assert result.exit_code == 0, result.output
    assert "coordination/distinct_choice: 3 episodes, greedy actions" in result.output
    for name in ("team return", "agent_0", "agent_1", "episode length", "win rate"):
        assert name in result.output
    with Image.open(tmp_path / "team.gif") as animation:
        assert animation.size[0] >= 200
    assert rllib("evaluate", sweep[0], "--episodes", "3").output.splitlines()[-5:] == result.output.splitlines()[-6:-1]


def test_evaluate_can_sample_actions_and_change_the_environment(sweep: tuple[Path, str]) -> None:
    result = rllib("evaluate", sweep[0], "--explore", "--episodes", "2", "--env-config", "{max_cycles: 3}")
    assert "sampled actions" in result.output and "episode length  3.00 +- 0.00" in result.output


def test_evaluate_does_not_start_ray(sweep: tuple[Path, str]) -> None:
    code = (
        "import sys, ray; from click.testing import CliRunner; from rllib_seqmarl.cli import main\n"
        f"result = CliRunner().invoke(main, ['evaluate', {str(sweep[0])!r}, '--episodes', '1'])\n"
        "sys.exit(result.exit_code or ray.is_initialized())"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_evaluate_rejects_invalid_arguments(sweep: tuple[Path, str], tmp_path: Path) -> None:
    assert "no such folder" in error_of("evaluate", tmp_path / "nowhere")
    assert "holds no policy of this package" in error_of("evaluate", tmp_path)
    (tmp_path / "team.pt").write_bytes(b"PK")
    assert "a checkpoint is a folder, not a file" in error_of("evaluate", tmp_path / "team.pt")
    assert error_of("evaluate", sweep[0], "--env-config", "[1]").startswith("--env-config: must be a mapping")
    wrong_team = error_of("evaluate", sweep[0], "--env-config", "{n_agents: 4}")
    assert "does not match the policy: it has 4 agents" in wrong_team
    assert "Did you mean 'mpe/simple_spread'" in error_of("evaluate", sweep[0], "--env", "mpe/simple_spred")


def test_a_damaged_checkpoint_is_reported_in_one_message(sweep: tuple[Path, str], tmp_path: Path) -> None:
    checkpoint = next(sweep[0].glob("MAT_*/checkpoint_*"))
    damaged = shutil.copytree(checkpoint, tmp_path / "checkpoint_000000")
    (weights,) = damaged.rglob("policy.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    assert "policy.safetensors" in error_of("evaluate", damaged)
    (description,) = damaged.rglob("policy.json")
    description.write_text(description.read_text()[:50])
    assert "policy.json" in error_of("evaluate", damaged)


def test_training_from_options_takes_command_line_settings(ray_cluster: None, tmp_path: Path) -> None:
    command = ["train", "--run", "MAT", "--env", "coordination/distinct_choice", "--config", f"{{{TINY}}}"]
    command += [
        "--stop",
        '{"training_iteration": 3}',
        "--local-dir",
        str(tmp_path),
        "-n",
        "mine",
        "--seed",
        "5",
    ]
    result = rllib(*command, "--checkpoint-freq", "1", "--keep-checkpoints-num", "1")
    assert result.exit_code == 0, result.output
    (trial,) = (tmp_path / "mine").glob("MAT_*")
    assert json.loads((trial / "params.json").read_text())["seed"] == 5
    assert [path.name for path in trial.glob("checkpoint_*")] == ["checkpoint_000002"]
    assert "mine already contains results: continue that run with --resume" in error_of(*command)
    assert "--resume cannot change config.embed_dim" in error_of(*command, "--resume", "--config", "{embed_dim: 32}")
    resumed = rllib(*command, "--resume")
    assert resumed.exit_code == 0 and "done" in resumed.output
    assert [path.name for path in (tmp_path / "mine").glob("MAT_*")] == [trial.name]


def test_errors_name_the_command_line_option() -> None:
    assert error_of("train") == "name an algorithm with --run, or pass a file: rllib train file EXP.yaml."
    assert error_of("train", "--run", "MTA", "--env", "x").startswith("--run: unknown algorithm 'MTA'.")
    spread = ["train", "--run", "MAT", "--env", "mpe/simple_spread"]
    assert error_of(*spread, "--config", "{lrr: 1}").startswith("--config: unknown key 'lrr' for MAT. Did you mean")
    assert error_of(*spread, "--config", "{lr: [1").startswith("--config: ")
    assert error_of(*spread, "--config", "lr").startswith("--config: config must be a mapping; got 'lr'")
    assert error_of(*spread, "--stop", "{episode_reward_mean: 1}").startswith("--stop: metric")
    assert error_of("train", "--run", "MAT", "--env", "spread").startswith("--env: Unknown environment 'spread'.")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-n", "../up"], "--experiment-name: '../up' cannot be the name of an experiment"),
        (["-n", ""], "--experiment-name: '' cannot be the name of an experiment"),
        (["--keep-checkpoints-num", "-1"], "--keep-checkpoints-num: keep_checkpoints_num must be at least 0"),
        (["--num-samples", "0"], "--num-samples: num_samples must be at least 1"),
        (["--config", "{env_config: {1: 2}}"], "--config: keys must be text: put 1 in quotes"),
        (["--stop", "{env_steps: 1e999}"], "--stop: 1e999 is too large for a number"),
        (["--scheduler", "pbt"], "--scheduler: scheduler 'pbt' needs options to mutate"),
        (["--restore", "nowhere"], "nowhere: no such folder"),
        (["--restore", "."], "restore: . is not a checkpoint of an RLlib algorithm"),
        (["--local-dir", "/proc/none"], "/proc/none/MAT-coordination-distinct_choice: results cannot be written there"),
    ],
)
def test_invalid_runs_are_rejected_before_ray_starts(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    monkeypatch.chdir(tmp_path)
    command = ["train", "--run", "MAT", "--env", "coordination/distinct_choice", *options]
    assert error_of(*command).startswith(message)


def test_a_missing_package_is_reported_for_the_env_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rllib_seqmarl.envs.catalog.find_spec", lambda name: None)
    command = ["train", "--run", "MAT", "--env", "mpe/simple_spread", "--config", "{lr: 1e-4}"]
    assert error_of(*command).startswith("--env: mpe/simple_spread needs mpe2")


def test_a_terminated_run_saves_a_checkpoint_and_says_how_to_continue(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rllib_seqmarl.cli", "train", "--run", "MAT", "-n", "long", "--ray-num-cpus", "1"]
    command += ["--env", "coordination/distinct_choice", "--local-dir", str(tmp_path), "--config", f"{{{TINY}}}"]
    command += ["--checkpoint-freq", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "steps/s" in line:  # training has started
                break
        process.terminate()
        output = process.stdout.read()
        assert process.wait(60) == 143
    assert "SIGTERM received" in output and "The same command with --resume continues" in output
    assert len(list(tmp_path.glob("long/MAT_*/checkpoint_*"))) == 1


def test_no_experiment_starts_if_one_file_is_invalid(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("good: {run: MAT, env: coordination/distinct_choice, stop: {training_iteration: 1}}")
    bad.write_text("bad:\n  run: MAT\n  env: nowhere\n")
    assert error_of("train", "file", good, bad, "--local-dir", tmp_path / "r").startswith(f"{bad}:3: ")
    assert not (tmp_path / "r").exists()


def test_list_shows_names_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    output = rllib("list").output
    for name in ("MAT", "PPO", "mpe/simple_spread", "coordination/distinct_choice", "mat/mpe-"):
        assert name in output
    monkeypatch.setattr("rllib_seqmarl.envs.catalog.find_spec", lambda name: None)
    assert 'mpe: pip install -e ".[mpe]"' in rllib("list").output


def test_help_and_version() -> None:
    assert __version__ in rllib("--version").output
    assert "train" in rllib("--help").output
    assert "--ray-address" in rllib("train", "file", "--help").output
