"""Checkpoints that `restore` accepts, checked without starting Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray import cloudpickle

from rllib_seqmarl.algorithms import MAT
from rllib_seqmarl.experiments import ExperimentError
from rllib_seqmarl.experiments.experiment import Experiment, parse_experiment
from rllib_seqmarl.experiments.ray_session import RaySession
from rllib_seqmarl.experiments.runner import check_runnable


def class_of_an_actor(cls: type) -> type:
    """Derive a class as Ray does for actors, which trials are."""
    derived = type(cls.__name__, (cls,), {"__module__": cls.__module__})
    derived.__qualname__ = cls.__qualname__
    return derived


def experiment(run: str, restore: Path) -> Experiment:
    spec = {"run": run, "env": "coordination/distinct_choice", "restore": str(restore)}
    return parse_experiment("x", spec, lambda *path: "x")


@pytest.fixture(params=[MAT, class_of_an_actor(MAT)], ids=["written by a driver", "written by a trial"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint_000000"
    folder.mkdir()
    (folder / "class_and_ctor_args.pkl").write_bytes(cloudpickle.dumps({"class": request.param}))
    return folder


def test_checkpoints_of_the_algorithm_are_accepted(checkpoint: Path) -> None:
    check_runnable([experiment("MAT", checkpoint)], RaySession(num_cpus=2, num_gpus=0))


@pytest.mark.parametrize("run", ["MAM", "PPO"])
def test_checkpoints_of_another_algorithm_are_rejected(checkpoint: Path, run: str) -> None:
    with pytest.raises(ExperimentError, match=f"is a checkpoint of MAT, not of {run}"):
        check_runnable([experiment(run, checkpoint)], RaySession(num_cpus=2, num_gpus=0))


def test_paths_may_start_at_the_home_folder(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    check_runnable([experiment("MAT", Path("~") / checkpoint.name)], RaySession(num_cpus=2, num_gpus=0))
