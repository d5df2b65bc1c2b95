"""SMACv2 (Ellis et al. 2023): SMAC with random teams at random positions, from github.com/oxwhirl/smacv2."""

import copy
import re
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from inspect import signature
from typing import Any

import numpy as np
import yaml

from rllib_seqmarl.envs.options import check_choice, check_names, check_number, check_options
from rllib_seqmarl.envs.suite import Suite
from rllib_seqmarl.envs.suites.smac import check_battle_options, make_smac
from rllib_seqmarl.envs.suites.starcraft import INSTALL_GAME, REQUIREMENTS, StarCraftTeam, import_package

RACES = ("terran", "protoss", "zerg")
SIZES = ((5, 5), (10, 10), (10, 11), (20, 20), (20, 23))
TASKS = {
    f"{race}_{n}_vs_{m}": f"{n} random {race} units against {m}, at random positions."
    for race in RACES
    for n, m in SIZES
}
# Section of a capability config -> its valid distribution types, its other keys. The package's further sections
# (`attack`, `health`) are not used by the benchmark's tasks and cannot be seeded.
SECTIONS = {
    "team_gen": (("weighted_teams", "all_teams"), ("unit_types", "weights", "exception_unit_types", "observe")),
    "start_positions": (("surrounded_and_reflect", "surrounded", "reflect_position"), ("p", "map_x", "map_y")),
    "enemy_mask": (("mask",), ("mask_probability",)),
}


def make_smacv2(
    task: str,
    *,
    capability_config: Mapping[str, Any] | None = None,
    conic_fov: bool = False,
    num_fov_actions: int = 12,
    obs_own_pos: bool = True,
    use_unit_ranges: bool = True,
    min_attack_range: float = 2,
    prob_obs_enemy: float = 1.0,
    action_mask: bool = True,
    restart_on_seed: bool = True,
    render_mode: str | None = None,
    **battle: Any,
) -> StarCraftTeam:
    """Make one scenario; see `StarCraftTeam`. The defaults are the benchmark's.

    The global state is the package's `get_state`, which includes every ally's capabilities (its type). With
    `reward_scale` the package divides rewards by the health of the first episode's enemies, so the return of a victory
    varies slightly between games.

    Args:
        task: Such as "terran_5_vs_5".
        capability_config: Overrides for the race's file in `smacv2_maps/`, merged by section and key.
            team_gen: dist_type (weighted_teams; all_teams: all combinations are equally likely, against the same team),
            unit_types, weights (probabilities), exception_unit_types, observe. start_positions: dist_type, p, map_x,
            map_y; None starts each side at a fixed position. enemy_mask, absent from the files: dist_type: mask and
            mask_probability, which despite its name is the probability that a unit observes a given enemy's health and
            type.
        conic_fov: Whether units see a cone in one of `num_fov_actions` directions, selected by as many extra actions.
        num_fov_actions: See `conic_fov`, >= 1.
        obs_own_pos: Whether units observe their own positions.
        use_unit_ranges: Whether sight and attack ranges depend on the unit type.
        min_attack_range: Minimum attack range, >= 0.
        prob_obs_enemy: Probability that a unit sees an enemy that a teammate saw first, from 0 to 1.
        action_mask: Whether only enemies in range can be attacked, or else all living ones. With `prob_obs_enemy=0`
            this is the extended partial observability challenge.
        restart_on_seed: Whether `reset(seed)` restarts the game, which takes seconds. The game's seed can only be set
            at its start; without a restart, seeds determine teams and positions, but not the game's own randomness.
        render_mode: None or "rgb_array".
        **battle: The other options of `make_smac`, with the same defaults.
    """
    own = {name: value for name, value in locals().items() if name not in ("task", "capability_config", "battle")}
    shared = {name: option.default for name, option in signature(make_smac).parameters.items() if name != "task"}
    check_names(f"smacv2/{task}", battle, [*own, "capability_config", *shared])
    options = {**shared, **battle, **own}
    check_battle_options(options)
    check_options(make_smacv2, own, {"num_fov_actions": 1, "min_attack_range": 0, "prob_obs_enemy": (0, 1)})
    del options["restart_on_seed"], options["render_mode"]

    match = _match_task(task)
    if match is None:
        raise ValueError(f"task={task!r} is unknown. Give {SUITE.other_tasks}.")
    race, n, m = match[1], int(match[2]), int(match[3])
    published = yaml.safe_load((files(__package__) / "smacv2_maps" / f"{race}.yaml").read_text())
    config = _merge_config(published["capability_config"], capability_config or {})
    _check_capabilities(config, published["capability_config"]["team_gen"]["unit_types"], n == m)
    options |= {"map_name": published["map_name"], "capability_config": {"n_units": n, "n_enemies": m, **config}}
    return StarCraftTeam(f"smacv2/{task}", partial(_make_game, options), _seed_generators, restart_on_seed, render_mode)


def _match_task(task: str) -> re.Match[str] | None:
    return re.fullmatch(rf"({'|'.join(RACES)})_([1-9]\d?)_vs_([1-9]\d?)", task)


def _merge_config(published: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge changes into the published sections. A change to None removes the section."""
    check_names("capability_config", changes, SECTIONS)
    config = copy.deepcopy(published)
    for section, keys in changes.items():
        if keys is None and section != "team_gen":
            config.pop(section, None)
            continue
        if not isinstance(keys, Mapping):
            raise ValueError(f"capability_config: {section}={keys!r} is not a section: give a dictionary of its keys.")
        check_names(f"capability_config: {section}", keys, ("dist_type", *SECTIONS[section][1]))
        config[section] = config.get(section, {}) | copy.deepcopy(dict(keys))
    return config


def _check_capabilities(config: Mapping[str, Any], unit_types: list[str], is_even: bool) -> None:
    """Raise ValueError for values on which the package would only fail during a game."""
    for section, keys in config.items():
        check_choice(f"capability_config: {section}: dist_type", keys.get("dist_type"), SECTIONS[section][0])
    team = config["team_gen"]
    for name in ("unit_types", "exception_unit_types"):
        for unit_type in team[name]:
            check_choice(f"capability_config: team_gen: {name}", unit_type, unit_types)
    check_choice("capability_config: team_gen: observe", team["observe"], (True, False))
    if team["dist_type"] == "all_teams":
        if not is_even:
            raise ValueError("capability_config: team_gen: dist_type='all_teams' needs as many enemies as units.")
        drawn_types = set(team["unit_types"])
    else:
        drawn_types = _check_weights(team["weights"], team["unit_types"])
    if drawn_types <= set(team["exception_unit_types"]):
        raise ValueError(
            "capability_config: team_gen: all types that can be drawn are exception_unit_types, so no team is valid: "
            "include another type."
        )
    positions = config.get("start_positions", {})
    for name, high in (("p", 1), ("map_x", 32), ("map_y", 32)):
        check_number(f"capability_config: start_positions: {name}", positions.get(name, 1), 0, high, whole=False)
    mask = config.get("enemy_mask")
    if mask is not None:
        check_number("capability_config: enemy_mask: mask_probability", mask.get("mask_probability"), 0, 1, whole=False)


def _check_weights(weights: Any, unit_types: list[str]) -> set[str]:
    """Raise ValueError unless the weights are probabilities of the types. Return the types of positive weight."""
    are_numbers = isinstance(weights, list | tuple) and all(isinstance(weight, int | float) for weight in weights)
    if not (are_numbers and len(weights) == len(unit_types) and min(weights) >= 0 and abs(sum(weights) - 1) < 1e-8):
        raise ValueError(
            f"capability_config: team_gen: weights={weights!r} are not probabilities of {', '.join(unit_types)}: give "
            "one from 0 to 1 for each, with a sum of 1."
        )
    return {unit_type for unit_type, weight in zip(unit_types, weights, strict=True) if weight > 0}


def _make_game(options: dict[str, Any], seed: int | None) -> Any:
    package = import_package("smacv2")
    # The package modifies its config. `continuing_episode` only decides whether `info` reports the time limit.
    return package.StarCraftCapabilityEnvWrapper(seed=seed, continuing_episode=True, **copy.deepcopy(options))


def _seed_generators(game: Any, seed: int) -> None:
    """Seed the generators of teams and positions, which the package leaves unseeded."""
    seeds = np.random.SeedSequence(seed)

    def seed_in(distribution: Any) -> None:
        for name, value in vars(distribution).items():
            if isinstance(value, np.random.Generator):
                setattr(distribution, name, np.random.default_rng(seeds.spawn(1)[0]))
            elif hasattr(value, "generate"):
                seed_in(value)

    for distribution in game.env_key_to_distribution_map.values():
        seed_in(distribution)


SUITE = Suite(
    name="smacv2",
    tasks=TASKS,
    make=make_smacv2,
    requires=("smacv2", *REQUIREMENTS),
    extra="starcraft",
    install='and: pip install --no-deps pysc2 s2clientprotocol "git+https://github.com/oxwhirl/smacv2.git". '
    + INSTALL_GAME,
    knows=lambda task: _match_task(task) is not None,
    other_tasks="{terran,protoss,zerg}_{1..99}_vs_{1..99}",
)
