"""TensorBoard curves are grouped, and single runs have hyperparameters."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event

from rllib_seqmarl.experiments.tensorboard import TensorBoard, tag


class Trial(SimpleNamespace):
    """The part of Tune's trial that the logger uses."""

    __hash__ = object.__hash__


def written(folder: Path) -> dict[str, int]:
    """Return tag -> step of the last value in a folder's event file."""
    (file,) = folder.glob("events.out.tfevents.*")
    data, tags, at = file.read_bytes(), {}, 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        tags |= {value.tag: event.step for value in event.summary.value}
        at += 16 + length
    return tags


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("env_runners/episode_return_mean", "team/return"),
        ("env_runners/win_rate", "team/win_rate"),
        ("learners/default_policy/vf_loss", "loss/value"),
        ("env_runners/seconds/network", "time/network"),
        ("evaluation/env_runners/win_rate", "evaluation/win_rate"),
        ("my/own", "my/own"),
    ],
)
def test_metrics_have_grouped_tags(name: str, expected: str) -> None:
    assert tag(name) == expected


@pytest.mark.parametrize("sampled", [{}, {"lr": 0.1}])
def test_curves_and_hyperparameters_are_written(tmp_path: Path, sampled: dict) -> None:
    trial = Trial(
        local_path=str(tmp_path),
        init_local_path=lambda: None,
        config={"lr": 0.1, "env_config": {"n": 3}, "seed": None, "layers": [1, 2]},
        evaluated_params=sampled,
    )
    callback = TensorBoard()
    result = {"num_env_steps_sampled_lifetime": 800, "training_iteration": 1, "done": False}
    result |= {"env_runners": {"episode_return_mean": 1.5, "win_rate": float("nan")}, "date": "today"}
    callback.log_trial_result(1, trial, result)
    callback.log_trial_end(trial)
    tags = written(tmp_path)
    assert tags["team/return"] == 800 and "team/win_rate" not in tags and "date" not in tags
    assert "_hparams_/session_start_info" in tags
