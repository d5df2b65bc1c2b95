"""Tests of capability configs and other options of SMACv2, with a stand-in for the package."""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
import pytest
import starcraft_stand_in

from rllib_seqmarl.envs import make_env
from rllib_seqmarl.envs.suites.smacv2 import SIZES, SUITE


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    stand_ins: dict[str, Any] = {}
    starcraft_stand_in.install(stand_ins)
    for name, module in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("SC2PATH", str(tmp_path))


def capabilities(task: str, **options: Any) -> dict[str, Any]:
    """Return the config passed to the package, before the package modifies it."""
    return make_env(f"smacv2/{task}", options)._make_game.args[0]["capability_config"]


@pytest.mark.parametrize(
    ("race", "weights", "exceptions"),
    [
        ("terran", {"marine": 0.45, "marauder": 0.45, "medivac": 0.1}, ["medivac"]),
        ("protoss", {"stalker": 0.45, "zealot": 0.45, "colossus": 0.1}, []),
        ("zerg", {"zergling": 0.45, "hydralisk": 0.45, "baneling": 0.1}, ["baneling"]),
    ],
)
def test_published_scenarios(race: str, weights: dict[str, float], exceptions: list[str]) -> None:
    for n, m in SIZES:
        config = capabilities(f"{race}_{n}_vs_{m}")
        team = config["team_gen"]
        assert (config["n_units"], config["n_enemies"]) == (n, m)
        assert dict(zip(team["unit_types"], team["weights"], strict=True)) == weights
        assert team["exception_unit_types"] == exceptions and team["observe"] is True
        assert config["start_positions"] == {
            "dist_type": "surrounded_and_reflect",
            "p": 0.5,
            "map_x": 32,
            "map_y": 32,
        }
        assert make_env(f"smacv2/{race}_{n}_vs_{m}")._game.env.map_name == f"10gen_{race}"


def test_other_sizes_are_valid() -> None:
    env = make_env("smacv2/zerg_3_vs_7")
    assert len(env.possible_agents) == 3 and env.action_space("agent_0").n == 6 + 7
    assert SUITE.knows("terran_99_vs_1")
    for task in ("terran_0_vs_5", "terran_5_vs_100", "human_5_vs_5", "terran_5", "terran_05_vs_5"):
        assert not SUITE.knows(task)


def test_changes_are_merged_into_the_race_file() -> None:
    changes = {"team_gen": {"weights": [1.0, 0.0, 0.0]}, "start_positions": None}
    original = copy.deepcopy(changes)
    published, changed = capabilities("terran_5_vs_5"), capabilities("terran_5_vs_5", capability_config=changes)
    assert changes == original
    assert "start_positions" not in changed
    assert changed["team_gen"] == published["team_gen"] | {"weights": [1.0, 0.0, 0.0]}
    masked = capabilities("terran_5_vs_5", capability_config={"start_positions": {"p": 1}})
    assert masked["start_positions"] == published["start_positions"] | {"p": 1}


def test_a_game_only_modifies_its_own_config() -> None:
    env = make_env("smacv2/terran_5_vs_5")
    before = copy.deepcopy(env._make_game.args[0])
    env.reset(seed=1)
    env.reset(seed=2)
    assert env._make_game.args[0] == before
    assert "env_key" in env._game.distribution_config["team_gen"]
    env.close()


def test_weights_determine_teams() -> None:
    env = make_env("smacv2/terran_5_vs_5", {"capability_config": {"team_gen": {"weights": [0.0, 1.0, 0.0]}}})
    for _ in range(3):
        env.reset()
        assert {unit.unit_type for unit in env._game.agents.values()} == {"marauder"}
    env.close()


def test_seeds_reach_nested_generators() -> None:
    env = make_env("smacv2/terran_5_vs_5")
    positions = []
    for seed in (1, 1, 2):
        env._seed_generators(env._game, seed)
        positions.append(env._game.env_key_to_distribution_map["start_positions"].generate())
    first, second, third = (position["ally_start_positions"]["item"] for position in positions)
    np.testing.assert_array_equal(first, second)
    assert (first != third).all()
    enemies = positions[0]["enemy_start_positions"]["item"]
    assert (enemies - first != (16, 0)).all()  # drawn independently


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"team": {}}, "no option 'team'.*team_gen"),
        ({"attack": {"observe": True}}, "no option 'attack'"),
        ({"n_units": 3}, "no option 'n_units'"),
        ({"team_gen": None}, "team_gen=None is not a section"),
        ({"team_gen": {"weight": [1]}}, "no option 'weight'.*weights"),
        ({"team_gen": {"unit_types": ["zealot"]}}, "'zealot' is unknown.*marine"),
        ({"team_gen": {"weights": [0.5, 0.4, 0.2]}}, r"weights=\[0.5, 0.4, 0.2\].*sum of 1"),
        ({"team_gen": {"weights": [0.5, 0.5]}}, "one from 0 to 1 for each"),
        ({"team_gen": {"weights": [1.5, -0.5, 0]}}, "not probabilities"),
        ({"team_gen": {"weights": 0.5}}, "weights=0.5 are not probabilities"),
        ({"team_gen": {"weights": [0, 0, 1.0]}}, "exception_unit_types, so no team is valid"),
        ({"team_gen": {"unit_types": ["medivac"], "weights": [1.0]}}, "exception_unit_types, so no team is valid"),
        ({"team_gen": {"observe": "yes"}}, "observe='yes'"),
        ({"team_gen": {"dist_type": "all_teams"}}, "as many enemies"),
        ({"team_gen": {"dist_type": "fixed"}}, "dist_type='fixed'.*weighted_teams"),
        ({"start_positions": {"p": 1.5}}, "p=1.5"),
        ({"start_positions": {"map_x": 64}}, "map_x=64"),
        ({"enemy_mask": {"mask_probability": 0.5}}, "dist_type=None.*mask"),
        ({"enemy_mask": {"dist_type": "mask"}}, "mask_probability=None"),
    ],
)
def test_capability_configs_are_checked(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_env("smacv2/terran_10_vs_11", {"capability_config": config})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"prob_obs_enemy": 2}, "prob_obs_enemy=2"),
        ({"num_fov_actions": 0}, "num_fov_actions=0"),
        ({"min_attack_range": "far"}, "min_attack_range='far'"),
        ({"conic_fov": 3}, "conic_fov=3"),
        ({"capability_config": {"start_positions": 5}}, "start_positions=5 is not a section"),
    ],
)
def test_options_are_checked(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_env("smacv2/terran_5_vs_5", option)
