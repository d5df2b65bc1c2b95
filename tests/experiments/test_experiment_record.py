"""Settings that can and cannot change when a run is resumed."""

from __future__ import annotations

from typing import Any

import pytest

from rllib_seqmarl.experiments import ExperimentError
from rllib_seqmarl.experiments.experiment import Experiment, parse_experiment
from rllib_seqmarl.experiments.experiment_record import config_changes, record


def experiment(**config: Any) -> Experiment:
    spec = {"run": "MAT", "env": "coordination/distinct_choice", "config": {"env_config": {"n_agents": 3}} | config}
    return parse_experiment("x", spec, lambda *path: "x")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("env_config", {"n_agents": 4}, "the environment"),
        ("agent_ids", False, "part of the network"),
        ("global_state", True, "part of the network"),
        ("use_value_norm", False, "part of the network"),
    ],
)
def test_what_the_saved_weights_depend_on_cannot_change(key: str, value: Any, reason: str) -> None:
    with pytest.raises(ExperimentError, match=rf"--resume cannot change config.{key} \({reason}"):
        config_changes(record(experiment()), experiment(**{key: value}))


@pytest.mark.parametrize(("key", "value"), [("lr", 1e-4), ("num_env_runners", 2), ("team_reward", "sum")])
def test_other_options_can_change(key: str, value: Any) -> None:
    assert config_changes(record(experiment()), experiment(**{key: value})) == {key: value}
