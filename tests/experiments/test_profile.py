"""Time profiles of training iterations: the parts add up to the total for every sampling loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from rllib_seqmarl.cli import main
from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.experiment import Experiment
from rllib_seqmarl.experiments.experiment_file import load_experiments
from rllib_seqmarl.experiments.profile import LEARNING_PARTS, SAMPLING_PARTS, Profile, profile_experiment

TINY = """
small:
  run: {run}
  env: coordination/distinct_choice
  stop: {{training_iteration: 1}}
  config:
    env_config: {{n_agents: 2}}
    num_envs_per_env_runner: 2
    train_batch_size_per_learner: 200
    num_epochs: 2
    lr: {{grid_search: [1.0e-3, 1.0e-4]}}
    {extra}
"""


def experiment(tmp_path: Path, extra: str = "", run: str = "MAT") -> Experiment:
    file = tmp_path / "small.yaml"
    file.write_text(TINY.format(run=run, extra=extra))
    return load_experiments(str(file))[0]


def options_of(kind: str) -> str:
    return {
        "local": "",
        "remote": "num_env_runners: 1",
        "overlapping": "num_env_runners: 1\n    sample_while_learning: true",
        "rllib's loop": "gym_env_vectorize_mode: sync",
    }[kind]


@pytest.mark.parametrize("kind", ["local", "remote", "overlapping", "rllib's loop"])
def test_the_parts_add_up_to_the_total(kind: str, tmp_path: Path, ray_cluster: None) -> None:
    lines: list[str] = []
    profile = profile_experiment(experiment(tmp_path, options_of(kind)), 2, lines.append)
    assert len(lines) == (4 if kind == "overlapping" else 3) and "not counted" in lines[0]
    assert "not counted" not in lines[-2] + lines[-1]
    assert profile.env_steps == 200
    assert profile.is_overlapped == (kind == "overlapping")
    assert profile.learning.keys() == LEARNING_PARTS.keys()
    assert profile.learning["connector"] > 0 and profile.learning["learner"] > 0 and profile.learning["sync"] > 0
    assert bool(profile.note) == (kind == "rllib's loop")
    if kind == "rllib's loop":
        assert profile.sampling["environment"] == 0 and profile.sampling["answering"] > 0
        assert "gym_env_vectorize_mode" in profile.note
    else:
        assert all(profile.sampling[part] > 0 for part in ("environment", "network", "rollout"))
    # A prefetched sample was taken during the iteration before, whose duration may differ.
    for parts in (profile.learning,) if profile.is_overlapped else (profile.sampling, profile.learning):
        assert sum(parts.values()) <= profile.total * 1.05
    if not profile.is_overlapped:
        everything = sum(profile.sampling.values()) + sum(profile.learning.values()) + profile.other
        assert everything == pytest.approx(profile.total, rel=0.05)


def test_the_table_has_shares_and_time_per_step() -> None:
    sampling = {"environment": 1.0, "network": 2.0, "rollout": 0.5, "answering": 0.0}
    learning = {"connector": 0.5, "learner": 5.0, "sync": 0.5}
    profile = Profile(10.0, 1e6, sampling, learning, is_overlapped=False)
    lines = {line[:16].strip(): line[16:].split() for line in profile.table().splitlines()}
    assert lines["network"][:3] == ["2.000", "20%", "2.0"]
    assert lines["other"][:3] == ["0.500", "5%", "0.5"]
    assert lines["env runners idle"][:2] == ["6.500", "65%"]
    assert lines["learner idle"][:2] == ["4.000", "40%"]
    assert lines["iteration"][:3] == ["10.000", "100%", "10.0"]
    both = Profile(6.5, 1e6, sampling, learning, is_overlapped=True)
    assert both.other == pytest.approx(0.5)


def test_other_algorithms_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = experiment(tmp_path)
    monkeypatch.setattr("rllib_seqmarl.experiments.profile.get_trainable_cls", _ppo)
    with pytest.raises(ExperimentError, match="MAT cannot be profiled: it is not one of this package's algorithms"):
        profile_experiment(made, 1, print)


def _ppo(name: str) -> Any:
    from ray.rllib.algorithms.ppo import PPO

    class Untyped(PPO):
        @classmethod
        def get_default_config(cls) -> Any:
            config = super().get_default_config()
            config.update_from_dict = lambda _: config  # type: ignore[method-assign]
            return config

    return Untyped


def test_the_command_prints_a_table_and_draws_a_picture(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "results"))
    result = CliRunner().invoke(main, ["profile", "small.yaml", "--iterations", "1"])
    assert result.exit_code == 0, result.output
    for part in (*SAMPLING_PARTS, *LEARNING_PARTS, "learner idle"):
        assert f"\n{part} " in result.output
    assert "env steps/s" in result.output and "Picture: small-profile.png" in result.output
    picture = Image.open(tmp_path / "small-profile.png")
    assert picture.width > 1000
    assert len(set(picture.convert("RGB").getdata())) > 20
    assert not list((tmp_path / "results").glob("*"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["profile", str(tmp_path / "nothing.yaml")])
    assert result.exit_code == 1
    assert "nothing.yaml" in result.output
