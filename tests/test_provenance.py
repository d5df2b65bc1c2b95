"""A run's provenance record suffices to repeat it."""

from __future__ import annotations

import json
import sys

import pytest
from pyarrow.fs import LocalFileSystem

from rllib_seqmarl import MAMConfig
from rllib_seqmarl.experiments.experiment import parse_experiment
from rllib_seqmarl.provenance import ProvenanceFile, drawn_seed, provenance


def config_values() -> dict:
    config = MAMConfig().environment("coordination/distinct_choice", env_config={"n_agents": 3})
    config.training(lr=1e-3, train_batch_size_per_learner=640, minibatch_size=None).debugging(seed=7)
    config.validate()
    return config.to_dict() | {"env": "coordination/distinct_choice"}


def test_the_record_is_a_valid_experiment() -> None:
    record = provenance("MAM", config_values(), MAMConfig().to_dict(), ["pettingzoo"])
    changed = record["experiment"]["config"]
    assert changed["env_config"] == {"n_agents": 3} and changed["seed"] == record["seed"] == 7
    assert changed["train_batch_size_per_learner"] == 640 and "embed_dim" not in changed
    parsed = parse_experiment("again", json.loads(json.dumps(record["experiment"])), lambda *path: str(path))
    assert parsed.config["lr"] == 1e-3 and parsed.run == "MAM"


def test_versions_and_the_command_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--name", "two words"])
    monkeypatch.setattr("rllib_seqmarl.provenance.ray.is_initialized", lambda: False)
    record = provenance("MAM", config_values(), {}, ["pettingzoo.mpe"])
    assert record["command"] == "train.py --name 'two words'"
    assert {"rllib_seqmarl", "python", "ray", "torch", "numpy", "pettingzoo"} <= set(record["versions"])


def test_objects_are_described_and_left_out_of_the_experiment() -> None:
    values = config_values() | {"policy_mapping_fn": len, "env_config": {"goal": object()}}
    record = provenance("MAM", values, MAMConfig().to_dict())
    assert "env_config" in record["left_out"] and "env_config" not in record["experiment"]["config"]
    assert "object" in record["effective_config"]["env_config"]["goal"]
    json.dumps(record)


def test_a_recorded_seed_is_read_back(tmp_path) -> None:
    file = ProvenanceFile(LocalFileSystem(), f"{tmp_path}/trial/provenance.json")
    assert file.seed() is None
    file.write({"seed": 12})
    assert file.seed() == 12
    (tmp_path / "trial" / "provenance.json").write_text("{")
    assert file.seed() is None
    assert len({drawn_seed() for _ in range(5)}) == 5 and 0 <= drawn_seed() < 2**31
