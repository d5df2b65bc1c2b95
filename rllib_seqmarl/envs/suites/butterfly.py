"""Cooperative games of PettingZoo's Butterfly suite, most of them with image observations."""

from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv
from PIL import Image

from rllib_seqmarl.envs.options import Limits, check_choice, check_names, check_options
from rllib_seqmarl.envs.pettingzoo_turns import PettingZooTurns
from rllib_seqmarl.envs.small_images import Rectangle, SmallImages
from rllib_seqmarl.envs.suite import Suite

_VIEW_SIZE = 512  # side length of an agent's view in knights_archers_zombies [pixels]
_IMAGE_OPTIONS = ("image_size", "grayscale", "frame_stack")


def make_butterfly(task: str, **options: Any) -> ParallelEnv:
    """Make one game. Rewards are PettingZoo's: shared, except in knights_archers_zombies.

    Args:
        task: "pistonball", "cooperative_pong" or "knights_archers_zombies".
        **options: For image observations (in knights_archers_zombies with `obs_method="image"`)
            image_size: height and width to which images are scaled down, at least 16 each, (64, 64) by default; None
                keeps the original size: 457 x 120, 280 x 480 and 512 x 512 in the order of the tasks above.
            grayscale: convert images from RGB to grayscale; True by default.
            frame_stack: how many successive images an observation contains, >= 1; 2 by default, which makes motion
                visible.

            The others are PettingZoo's. All tasks have
            max_cycles: steps after which an episode is truncated, >= 1; 125, 900 and 900 by default.
            render_mode: None or "rgb_array". It does not affect image observations.

            pistonball: n_pistons (20) >= 2; continuous (True), else three actions; time_penalty (-0.1); random_drop,
            random_rotate (True); ball_mass (0.75) > 0; ball_friction (0.3), ball_elasticity (1.5) >= 0.

            cooperative_pong: ball_speed (9), left_paddle_speed, right_paddle_speed (12) >= 0; cake_paddle (True);
            bounce_randomness (False); max_reward (100), off_screen_penalty (-10); render_ratio (2): images are
            960 x 560 divided by it, 1 to 10; render_fps (15), which has no effect here.

            knights_archers_zombies: num_archers, num_knights (2) >= 0, together 1 to 20; max_zombies, max_arrows
            (10) >= 0; spawn_delay (20) >= 1; killable_knights, killable_archers (True); line_death (False);
            obs_method: "vector" (default), "vector-masked" or "image". "vector-sequence" is not supported because its
            size varies.

    Raises:
        ValueError: An option is unknown or out of range.
    """
    return _MAKERS[task](options)


def _split_options(
    task: str, make: Callable[..., Any], options: dict[str, Any], limits: Limits
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check options and split them into those of the package's game, made by `make`, and those of `SmallImages`."""
    check_names(f"butterfly/{task}", options, [*signature(make).parameters, *_IMAGE_OPTIONS])
    check_options(make, options, limits)
    images = {name: value for name, value in options.items() if name in _IMAGE_OPTIONS}
    return {name: value for name, value in options.items() if name not in images}, images


class PixelTurns(PettingZooTurns):
    """A game with image observations, scaled down and stacked. It has no global state.

    Args:
        env: A `raw_env` made with render_mode="rgb_array". Without it PettingZoo draws nothing, and agents would
            observe an empty screen.
        render_mode: None or "rgb_array".
        image_options: Keyword arguments of `SmallImages`.
    """

    def __init__(self, env: Any, render_mode: str | None, image_options: dict[str, Any]):
        super().__init__(env, render_mode)
        height, width, _ = env.observation_space(self.possible_agents[0]).shape
        self.images = SmallImages(height, width, **image_options)
        self.observation_spaces = dict.fromkeys(self.possible_agents, self.images.space)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        self.images.reset()
        return super().reset(seed, options)

    def state(self) -> np.ndarray:
        raise NotImplementedError("games with image observations have no global state")

    def _observe(self, agents: Iterable[str]) -> dict[str, np.ndarray]:
        # All agents observe parts of one screen, so draw and read it once instead of once per agent as PettingZoo does.
        import pygame

        screen = self._screen()
        image = Image.frombytes("RGB", screen.get_size(), pygame.image.tobytes(screen, "RGB"))
        small = self.images.shrink(image, {agent: self._view(agent) for agent in agents})
        return {agent: self.images.stack(agent, image) for agent, image in small.items()}

    def _screen(self) -> Any:
        """Return the pygame surface that agents observe."""
        return self.env.screen

    def _view(self, agent: str) -> Rectangle:
        """Return the part of the screen that an agent observes."""
        raise NotImplementedError


# -- pistonball ----------------------------------------------------------------------------------------------


def _pistonball(options: dict[str, Any]) -> ParallelEnv:
    from pettingzoo.butterfly.pistonball.pistonball import raw_env

    limits = {"n_pistons": 2, "ball_mass": 1e-3, "ball_friction": 0, "ball_elasticity": 0, "max_cycles": 1}
    package, images = _split_options("pistonball", raw_env, options, limits)
    return Pistonball(raw_env(**{**package, "render_mode": "rgb_array"}), options.get("render_mode"), images)


class Pistonball(PixelTurns):
    """Pistons roll a ball to the left. Each observes itself, its neighbours and the space above them."""

    def _view(self, agent: str) -> Rectangle:
        env = self.env
        left = env.wall_width + env.piston_width * (env.agent_name_mapping[agent] - 1)
        bottom = env.screen_height - env.wall_width - env.piston_body_height
        return left, env.wall_width, left + 3 * env.piston_width, bottom

    def _last_info(self) -> dict[str, Any]:
        """Report a win if the ball has reached the left wall."""
        return {"win": float(self.env.terminate)}


# -- cooperative_pong ----------------------------------------------------------------------------------------


def _cooperative_pong(options: dict[str, Any]) -> ParallelEnv:
    from pettingzoo.butterfly.cooperative_pong.cooperative_pong import CooperativePong as Game
    from pettingzoo.butterfly.cooperative_pong.cooperative_pong import raw_env

    speeds = dict.fromkeys(("ball_speed", "left_paddle_speed", "right_paddle_speed"), 0)
    limits: Limits = {**speeds, "max_cycles": 1, "render_ratio": (1, 10), "render_fps": 1}
    package, images = _split_options("cooperative_pong", Game, options, limits)
    return CooperativePong(raw_env(**{**package, "render_mode": "rgb_array"}), options.get("render_mode"), images)


class CooperativePong(PixelTurns):
    """Two paddles keep a ball in the field. Both observe the whole field."""

    def _screen(self) -> Any:
        return self.env.env.screen

    def _view(self, agent: str) -> Rectangle:
        return 0, 0, *self._screen().get_size()


# -- knights_archers_zombies ---------------------------------------------------------------------------------


def _knights_archers_zombies(options: dict[str, Any]) -> ParallelEnv:
    from pettingzoo.butterfly.knights_archers_zombies.knights_archers_zombies import raw_env

    counts: Limits = {"num_archers": (0, 20), "num_knights": (0, 20), "max_zombies": 0, "max_arrows": 0}
    limits = {**counts, "spawn_delay": 1, "max_cycles": 1}
    package, images = _split_options("knights_archers_zombies", raw_env, options, limits)
    obs_method = options.get("obs_method", "vector")
    check_choice("obs_method", obs_method, ("vector", "vector-masked", "image"))
    if not 1 <= options.get("num_archers", 2) + options.get("num_knights", 2) <= 20:
        raise ValueError("num_archers and num_knights are out of range: give 1 to 20 agents in all.")
    if obs_method == "image":
        return PixelZombies(raw_env(**package), options.get("render_mode"), images)
    if images:
        raise ValueError(f"{next(iter(images))} has no effect with obs_method={obs_method!r}, only with 'image'.")
    return VectorZombies(raw_env(**package), options.get("render_mode"))


class Zombies(PettingZooTurns):
    """Knights and archers fend off zombies. Dead agents leave the episode.

    As in PettingZoo, all agents but the first are rewarded for a kill one step late.
    """

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        # PettingZoo does not reset this spawn timer, so equal seeds would give different episodes.
        self.env.zombie_spawn_interval.reset()
        return super().reset(seed, options)


class VectorZombies(Zombies):
    """Zombies with vector observations, float32 (rows, 5 or 11), which a joint environment flattens."""

    def __init__(self, env: Any, render_mode: str | None):
        super().__init__(env, render_mode)
        space = spaces.Box(-1.0, 1.0, env.observation_space(self.possible_agents[0]).shape, np.float32)
        self.observation_spaces = dict.fromkeys(self.possible_agents, space)

    def _observe(self, agents: Iterable[str]) -> dict[str, np.ndarray]:
        return {agent: self.env.observe(agent).astype(np.float32) for agent in agents}

    def state(self) -> np.ndarray:
        return self.env.state().astype(np.float32)


class PixelZombies(Zombies, PixelTurns):
    """Zombies with image observations, centred on the agent; all black in the step in which it dies."""

    def _screen(self) -> Any:
        self.env.draw()
        return self.env.screen

    def _view(self, agent: str) -> Rectangle:
        player = self.env.agent_map[agent]
        if not player.is_alive:
            return -_VIEW_SIZE, -_VIEW_SIZE, 0, 0
        left, top = player.rect.x - _VIEW_SIZE // 2, player.rect.y - _VIEW_SIZE // 2
        return left, top, left + _VIEW_SIZE, top + _VIEW_SIZE


_MAKERS = {
    "pistonball": _pistonball,
    "cooperative_pong": _cooperative_pong,
    "knights_archers_zombies": _knights_archers_zombies,
}

SUITE = Suite(
    name="butterfly",
    tasks={
        "pistonball": "Twenty pistons roll a ball to the left; each observes the space above itself.",
        "cooperative_pong": "Two paddles keep a ball in the field as long as they can, from images.",
        "knights_archers_zombies": "Knights and archers fend off zombies; dead agents leave.",
    },
    make=make_butterfly,
    requires=("pygame", "pymunk"),
    extra="butterfly",
)
