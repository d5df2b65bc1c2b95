"""SMAC: the StarCraft Multi-Agent Challenge (Samvelyan et al. 2019), from github.com/oxwhirl/smac."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from rllib_seqmarl.envs.options import Limits, check_choice, check_options
from rllib_seqmarl.envs.suite import Suite, listed_tasks
from rllib_seqmarl.envs.suites.starcraft import INSTALL_GAME, REQUIREMENTS, StarCraftTeam, import_package

TASKS = listed_tasks("smac")


DIFFICULTIES = "123456789A"  # of the built-in AI, from "very easy" to "cheats insanely"


def make_smac(
    task: str,
    *,
    difficulty: str = "7",
    game_version: str | None = None,
    step_mul: int = 8,
    move_amount: float = 2,
    obs_last_action: bool = False,
    obs_pathing_grid: bool = False,
    obs_terrain_height: bool = False,
    obs_timestep_number: bool = False,
    state_last_action: bool = True,
    state_timestep_number: bool = False,
    reward_sparse: bool = False,
    reward_only_positive: bool = True,
    reward_death_value: float = 10,
    reward_win: float = 200,
    reward_defeat: float = 0,
    reward_negative_scale: float = 0.5,
    reward_scale: bool = True,
    reward_scale_rate: float = 20,
    restart_on_seed: bool = True,
    render_mode: str | None = None,
) -> StarCraftTeam:
    """Make a battle on one map; see `StarCraftTeam`. The defaults are the package's.

    Args:
        task: The map's name.
        difficulty: Level of the built-in AI, "1" to "9" or "A".
        game_version: Such as "4.6.2", which the paper uses, or "4.10". Results of different versions are not
            comparable. None is the latest installed version.
        step_mul: Game steps per environment step, >= 1.
        move_amount: Distance of a move action, >= 0.
        obs_last_action: Whether units observe the last actions of visible allies.
        obs_pathing_grid: Whether units observe where the surrounding terrain is walkable.
        obs_terrain_height: Whether units observe the height of the surrounding terrain.
        obs_timestep_number: Whether units observe the elapsed fraction of the time limit.
        state_last_action: Whether the global state contains all units' last actions.
        state_timestep_number: Whether the global state contains the elapsed fraction of the time limit.
        reward_sparse: Reward 1 for a victory, -1 for a defeat and 0 otherwise. The options below then have no effect,
            except `reward_scale`, which should be off.
        reward_only_positive: Only reward damage and deaths of enemies, without penalties for those of allies.
        reward_death_value: Reward for each enemy's death (penalty for each ally's, unless only positive), >= 0.
        reward_win: Reward for a victory, >= 0.
        reward_defeat: Reward for a defeat, from -1e6 to 0.
        reward_negative_scale: Weight of the penalties, >= 0.
        reward_scale: Whether rewards are scaled such that the maximum return is `reward_scale_rate`.
        reward_scale_rate: See `reward_scale`, > 0.
        restart_on_seed: Whether `reset(seed)` restarts the game, which takes seconds. The game's seed can only be set
            at its start; without a restart, seeds have no effect on these maps.
        render_mode: None or "rgb_array".
    """
    options = {name: value for name, value in locals().items() if name != "task"}
    check_choice("task", task, TASKS)
    check_battle_options(options)
    del options["restart_on_seed"], options["render_mode"]
    make_game = partial(_make_game, task, options)
    return StarCraftTeam(f"smac/{task}", make_game, restart_on_seed=restart_on_seed, render_mode=render_mode)


def check_battle_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError for the first invalid option of `make_smac`."""
    check_choice("difficulty", options["difficulty"], DIFFICULTIES)
    limits = dict.fromkeys(("move_amount", "reward_death_value", "reward_win", "reward_negative_scale"), 0)
    others: Limits = {"step_mul": 1, "reward_scale_rate": 1e-6, "reward_defeat": (-1e6, 0)}
    check_options(make_smac, options, {**limits, **others})


def _make_game(map_name: str, options: dict[str, Any], seed: int | None) -> Any:
    # `continuing_episode` only decides whether `info` reports the time limit.
    return import_package("smac").StarCraft2Env(map_name=map_name, seed=seed, continuing_episode=True, **options)


SUITE = Suite(
    name="smac",
    tasks=TASKS,
    make=make_smac,
    requires=("smac.env", *REQUIREMENTS),
    extra="starcraft",
    install='and: pip install --no-deps pysc2 s2clientprotocol "git+https://github.com/oxwhirl/smac.git" '
    f"(smac on PyPI is a different package, a hyperparameter optimiser). {INSTALL_GAME}",
)
