"""Cooperative tasks of Gupta, Egorov and Kochenderfer (2017), from the package PettingZoo.

The third task, waterworld, was removed from PettingZoo in version 1.26.
"""

from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from rllib_seqmarl.envs.options import Limits, check_options
from rllib_seqmarl.envs.pettingzoo_turns import PettingZooTurns
from rllib_seqmarl.envs.suite import Suite


def make_sisl(task: str, **options: Any) -> ParallelEnv:
    """Make one task. Dynamics and rewards are PettingZoo's; the infos of the last step contain "win".

    Every agent gets the mean reward over agents, or its own reward with `shared_reward=False`.

    Args:
        task: "multiwalker" or "pursuit".
        **options: PettingZoo's options. Both tasks have
            max_cycles: steps after which an episode is truncated, >= 1; 500 by default.
            shared_reward: see above.
            render_mode: None or "rgb_array".

            multiwalker: n_walkers (3), terrain_length (200) >= 1; position_noise, angle_noise (0.001) >= 0;
            forward_reward (1), fall_reward (-10), terminate_reward (-100); terminate_on_fall (True): one fallen walker
            ends the episode; remove_on_fall (True): a fallen walker is removed if the episode continues.

            pursuit: n_pursuers (8), n_evaders (30), n_catch (2) >= 1; x_size, y_size (16) >= 2; obs_range (7), the
            side length of an agent's square field of view, odd; tag_reward (0.01), catch_reward (5), urgency_reward
            (-0.1); surround (True): evaders are caught by surrounding them, else by n_catch agents on their cell;
            freeze_evaders (False); constraint_window (1): fraction of each side used for starting positions, 0 to 1.

    Raises:
        ValueError: An option is unknown or out of range.
    """
    return _MAKERS[task](options)


def _multiwalker(options: dict[str, Any]) -> ParallelEnv:
    from pettingzoo.sisl.multiwalker.multiwalker import raw_env
    from pettingzoo.sisl.multiwalker.multiwalker_base import MultiWalkerEnv

    limits = {"n_walkers": 1, "terrain_length": 1, "position_noise": 0, "angle_noise": 0, "max_cycles": 1}
    check_options(MultiWalkerEnv, options, limits, owner="sisl/multiwalker")
    return Multiwalker(raw_env(**options), options.get("render_mode"))


class Multiwalker(PettingZooTurns):
    """Walkers that carry a package. Unlike in PettingZoo, the time limit is a truncation, not a termination."""

    def __init__(self, env: Any, render_mode: str | None):
        super().__init__(env, render_mode)
        if render_mode is not None:
            import pygame

            # An off-screen surface; PettingZoo would open a window.
            env.env.screen = pygame.Surface((600, 400))

    def state(self) -> np.ndarray:
        """All walkers' observations and the package's pose; zeros for walkers that were removed."""
        game = self.env.env
        if all(walker.hull is not None for walker in game.walkers):
            return game.state()
        package = game.package.position.x, game.package.position.y, game.package.angle
        observations = [
            walker.get_observation() if walker.hull is not None else np.zeros(24) for walker in game.walkers
        ]
        return np.concatenate([*observations, package]).astype(np.float32)

    def _has_terminated(self, agent: str) -> bool:
        return bool(self.env.env.last_dones[self.possible_agents.index(agent)])

    def _is_truncated(self, agent: str) -> bool:
        game = self.env.env
        return game.frames >= game.max_cycles and not self._has_terminated(agent)

    def _last_info(self) -> dict[str, Any]:
        """Report a win if the package has passed the right end of the terrain."""
        from pettingzoo.sisl.multiwalker.multiwalker_base import TERRAIN_GRASS, TERRAIN_STEP

        game = self.env.env
        passed = game.package.position.x > (game.terrain_length - TERRAIN_GRASS) * TERRAIN_STEP
        fallen = game.game_over or (game.terminate_on_fall and game.fallen_walkers.any())
        return {"win": float(passed and not fallen)}


def _pursuit(options: dict[str, Any]) -> ParallelEnv:
    from pettingzoo.sisl.pursuit.pursuit import raw_env
    from pettingzoo.sisl.pursuit.pursuit_base import Pursuit as Game

    counts = dict.fromkeys(("n_pursuers", "n_evaders", "n_catch", "obs_range", "max_cycles"), 1)
    limits: Limits = {**counts, "x_size": 2, "y_size": 2, "constraint_window": (0, 1)}
    check_options(Game, options, limits, owner="sisl/pursuit")
    _check_grid(options)
    return Pursuit(raw_env(**options), options.get("render_mode"))


def _check_grid(options: dict[str, Any]) -> None:
    """Reject what PettingZoo accepts silently: asymmetric observation ranges and overcrowded grids."""
    from pettingzoo.sisl.pursuit.utils.two_d_maps import rectangle_map

    obs_range = options.get("obs_range", 7)
    if obs_range % 2 == 0:
        raise ValueError(f"obs_range={obs_range} is even: give an odd number, so that the view is symmetric.")
    # Pursuers and evaders are placed by rejection sampling until none touch, which loops forever on a full grid. About
    # 36% of the cells can be filled this way.
    sides = options.get("x_size", 16), options.get("y_size", 16)
    window = [int(side * options.get("constraint_window", 1.0)) for side in sides]
    capacity = int(0.3 * (np.prod(window) + rectangle_map(*sides).sum()))  # the building's cells are -1
    for name, default in (("n_pursuers", 8), ("n_evaders", 30)):
        if options.get(name, default) > capacity:
            raise ValueError(
                f"{name}={options.get(name, default)} is too many for {window[0]} x {window[1]} cells: give at most "
                f"{capacity}, or increase x_size, y_size or constraint_window."
            )


class Pursuit(PettingZooTurns):
    """Pursuers that surround evaders on a grid."""

    def _last_info(self) -> dict[str, Any]:
        """Report a win if all evaders are caught."""
        return {"win": float(self.env.env.is_terminal)}


_MAKERS = {"multiwalker": _multiwalker, "pursuit": _pursuit}

SUITE = Suite(
    name="sisl",
    tasks={
        "multiwalker": "Bipedal walkers carry a package over rough terrain.",
        "pursuit": "Pursuers surround evaders that move at random.",
    },
    make=make_sisl,
    requires=("pygame", "Box2D", "scipy"),
    extra="sisl",
)
