"""The common base of smac and smacv2: a team of StarCraft II units behind the packages' shared interface.

Both packages start the game as a process of its own and talk to it. `docs/starcraft.md` says how to install them.
"""

import importlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from rllib_seqmarl.envs.agent_spaces import ALIVE_KEY, MASK_KEY
from rllib_seqmarl.envs.errors import JointEnvError
from rllib_seqmarl.envs.options import check_choice, check_number
from rllib_seqmarl.envs.suites.battle_picture import Unit, draw_battle

DIFFICULTIES = "123456789A"  # of the game's own player, from "very easy" to "cheats insanely"
NEEDS = ("pysc2", "s2clientprotocol", "portpicker", "websocket")  # what both packages import
INSTALL_GAME = (
    "Install StarCraft II (Linux: the 4.10 package of https://github.com/Blizzard/s2client-proto#downloads), set "
    "SC2PATH to its folder, and unpack the maps (SMAC_Maps.zip of the package's releases) into $SC2PATH/Maps. "
    "docs/starcraft.md has each step."
)


class GameFault(RuntimeError):
    """The game crashed or cannot be reached: a transient fault. RLlib recreates such an environment."""


def import_package(name: str) -> ModuleType:
    """Imports smac or smacv2.

    Raises:
        ImportError: It cannot be imported together with the modules that are loaded already.
    """
    other = "smac" if name == "smacv2" else "smacv2"
    if f"{other}.env.starcraft2.maps" in sys.modules:
        raise ImportError(f"{name} and {other} give their maps the same names: use them in different processes.")
    try:
        return importlib.import_module("smac.env" if name == "smac" else "smacv2.env.starcraft2.wrapper")
    except TypeError as error:  # protobuf's complaint of s2clientprotocol, which was generated long ago
        raise ImportError(
            f"{name} cannot be imported with this version of protobuf. Set the environment variable "
            f"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python before Python (and Ray) starts."
        ) from error


def check_battle_options(options: Mapping[str, Any]) -> None:
    """Raises ValueError for the first wrong value among the options that both packages share."""
    check_choice("difficulty", options["difficulty"], DIFFICULTIES)
    check_choice("render_mode", options["render_mode"], (None, "rgb_array"))
    check_number("step_mul", options["step_mul"], 1)
    for name in ("move_amount", "reward_death_value", "reward_win", "reward_negative_scale"):
        check_number(name, options[name], 0, whole=False)
    check_number("reward_scale_rate", options["reward_scale_rate"], 1e-6, whole=False)
    check_number("reward_defeat", options["reward_defeat"], -1e6, 0, whole=False)
    for name, value in options.items():
        if name.startswith(("obs_", "state_")) or name in ("reward_sparse", "reward_only_positive", "reward_scale"):
            check_choice(name, value, (True, False))


class StarCraftTeam(ParallelEnv):
    """A battle of one of the two packages.

    The reward is the team's, the same for every unit. A dead unit stays in `agents`: its info says `alive: False`, its
    observation is zeros and its one legal choice is 0, which no living unit may take. Running out of time
    truncates an episode; a battle won, lost or drawn terminates it. Infos of the last step hold `win`.

    A game that crashes is closed, and `GameFault` is raised by the step or reset in which it showed. The
    packages would go on with an episode that ends by itself (at a step) or with units of the game before (at a reset).

    Args:
        name: What the environment is called.
        make_game: Makes the package's environment, given the game's seed or None; the game itself starts with its
            first reset.
        seed_draws: Seeds what the package draws by generators of its own.
        restart_on_seed: Whether `reset(seed)` restarts the game. Only then does it begin with that seed.
        render_mode: None or "rgb_array".
    """

    def __init__(
        self,
        name: str,
        make_game: Callable[[int | None], Any],
        seed_draws: Callable[[Any, int], None] | None = None,
        restart_on_seed: bool = True,
        render_mode: str | None = None,
    ):
        self._args = (name, make_game, seed_draws, restart_on_seed, render_mode)
        self._make_game, self._seed_draws, self._restart_on_seed = make_game, seed_draws, restart_on_seed
        self.metadata = {"name": name, "render_modes": ["rgb_array"]}
        self.render_mode = render_mode
        self._streams = _GlobalStreams(None)
        self._game: Any = make_game(None)
        self._is_started = False
        sizes = self._game.get_env_info()
        self.possible_agents = [f"agent_{i}" for i in range(sizes["n_agents"])]
        self.agents: list[str] = []
        self._observation_space = spaces.Box(-np.inf, np.inf, (int(sizes["obs_shape"]),), np.float32)
        self._action_space: spaces.Discrete = spaces.Discrete(int(sizes["n_actions"]))
        self._masks = np.ones((len(self.possible_agents), sizes["n_actions"]), np.int8)

    def __reduce__(self) -> tuple[Any, ...]:
        return StarCraftTeam, self._args  # a copy plays a game of its own

    def observation_space(self, agent: str) -> spaces.Box:
        return self._observation_space

    def action_space(self, agent: str) -> spaces.Discrete:
        return self._action_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Starts an episode.

        Raises:
            JointEnvError: StarCraft II or its map is not installed.
            GameFault: It crashed.
        """
        if self._game is None or (seed is not None and self._restart_on_seed):
            self.close()
            self._game = self._make_game(None if seed is None else seed % 2**32)  # the game's seeds have 32 bits
        if seed is not None:
            self._streams = _GlobalStreams(seed)
            if self._seed_draws is not None:
                self._seed_draws(self._game, seed)
        with self._playing("reset"):
            core = _core(self._game)
            restarts = core.force_restarts
            self._game.reset()
            if core.force_restarts > restarts:
                raise GameFault("the package had to start it again")
            # In its first episode, which lasts until one has ended, the package would start the game at every reset,
            # and each time add the enemies' health once more to what it divides rewards by.
            core._episode_count = max(core._episode_count, 1)
            seen = self._look()
        self._is_started = True
        self.agents = self.possible_agents[:]
        return seen, self._infos()

    def step(self, actions: Mapping[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        agents = self.agents
        choices = [self._legal_action(i, actions[agent]) for i, agent in enumerate(agents)]
        with self._playing("step"):
            reward, over, told = self._game.step(choices)
            if "battle_won" not in told:  # so the packages report a crash, after they have started the game again
                raise GameFault("the package had to start it again")
            seen = self._look()
        truncated = over and bool(told.get("episode_limit"))
        infos = self._infos({"win": float(told["battle_won"])} if over else {})
        if over:
            self.agents = []
        return (
            seen,
            dict.fromkeys(agents, float(reward)),
            dict.fromkeys(agents, bool(over and not truncated)),
            dict.fromkeys(agents, truncated),
            infos,
        )

    def state(self) -> np.ndarray:
        """The result of the package's `get_state`: all units, their types, and by default the team's last actions."""
        return np.asarray(self._game.get_state(), np.float32)

    def render(self) -> np.ndarray | None:
        """The battlefield from above: the team in blue, its enemies in red, their health in green."""
        # The packages' own pictures take pygame and a Python before 3.11.
        return _draw(_core(self._game)) if self.render_mode else None

    def close(self) -> None:
        """Ends the game's process."""
        game, self._game, self._is_started = self._game, None, False
        if game is None:
            return
        core = _core(game)
        try:
            game.close()
        except Exception:  # It no longer answers.
            with suppress(Exception):
                core._sc2_proc._shutdown()
        core._sc2_proc = None  # The package keeps `core` to the end of Python, and pysc2 would complain then.

    @contextmanager
    def _playing(self, what: str) -> Iterator[None]:
        """Closes the game if it fails, and says whether that is a fault of the moment."""
        try:
            with self._streams.lent():
                yield
        except Exception as error:
            was_started = self._is_started
            self.close()
            words = f"{type(error).__name__}: {error}" if not isinstance(error, GameFault) else str(error)
            if not was_started and isinstance(error, FileNotFoundError | ValueError):
                raise JointEnvError(f"StarCraft II cannot be started. {words}. {INSTALL_GAME}") from error
            raise GameFault(f"{self.metadata['name']}: StarCraft II failed at {what}: {words}.") from error

    def _look(self) -> dict[str, np.ndarray]:
        self._masks = np.array(self._game.get_avail_actions(), np.int8)  # (n, choices)
        seen = np.array(self._game.get_obs(), np.float32)  # (n, obs_dim)
        return dict(zip(self.possible_agents, seen, strict=True))

    def _infos(self, common: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
        return {
            agent: {MASK_KEY: mask, ALIVE_KEY: not mask[0], **(common or {})}
            for agent, mask in zip(self.possible_agents, self._masks, strict=True)
        }

    def _legal_action(self, i: int, action: Any) -> int:
        """The choice of agent i. An illegal one would be an AssertionError, half of the team's actions later."""
        choice, mask = int(action), self._masks[i]
        if not (0 <= choice < len(mask) and mask[choice]):
            legal = ", ".join(map(str, np.flatnonzero(mask)))
            raise JointEnvError(f"agent {self.possible_agents[i]!r}: action {choice} is illegal now (legal: {legal}).")
        return choice


def _core(game: Any) -> Any:
    """The StarCraft2Env, which smacv2 wraps."""
    return vars(game).get("env", game)


def _draw(core: Any) -> np.ndarray:
    """A picture (h, w, 3) of the units that live."""
    return draw_battle(
        core.map_x,
        core.map_y,
        (
            Unit(unit.pos.x, unit.pos.y, unit.radius, unit.health / unit.health_max, units is core.agents)
            for units in (core.enemies, core.agents)
            for unit in units.values()
            if unit.health > 0
        ),
    )


_np_random: Any = np.random  # whose types do not know all it has


class _GlobalStreams:
    """Python's and numpy's global random streams, as the packages use them, with a state of their own.

    So an episode depends on nothing that others draw, and draws nothing from them.
    """

    def __init__(self, seed: int | None):
        for_python, for_numpy = np.random.SeedSequence(seed).spawn(2)
        self._python = random.Random(int(for_python.generate_state(1)[0])).getstate()
        self._numpy = np.random.MT19937(for_numpy)

    @contextmanager
    def lent(self) -> Iterator[None]:
        python, numpy = random.getstate(), _np_random.get_bit_generator()
        random.setstate(self._python)
        _np_random.set_bit_generator(self._numpy)
        try:
            yield
        finally:
            self._python = random.getstate()
            random.setstate(python)
            _np_random.set_bit_generator(numpy)
