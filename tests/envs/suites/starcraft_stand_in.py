"""A stand-in for the packages smac and smacv2: their interface and quirks, without StarCraft II.

It reproduces what `StarCraftTeam` relies on or works around (smac d6aab33, smacv2 577ab5a):
- an illegal action is an AssertionError; action 0 is illegal for living units and the only legal one for dead units;
- the time limit is reported as a termination, except for `episode_limit` in info with `continuing_episode`;
- a crash restarts the game and returns `(0, True, {})` from a step, or the units of the previous game from a reset;
- a reset in the first episode restarts the game and adds the enemies' health to the scale of rewards;
- smacv2's wrapper modifies its config, and draws teams and positions from unseeded generators and Python's global one.
`test_starcraft.py` runs the same tests with the real packages where they can be imported.

The environment variable `BATTLE` holds the battle's options as JSON, as in `starcraft_game.py`.
"""

import itertools
import json
import os
import random
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

# map: allies, enemies, time limit
MAPS = {
    "3m": (3, 3, 60),
    "2s3z": (5, 5, 120),
    **{f"10gen_{race}": (10, 10, 200) for race in ("terran", "protoss", "zerg")},
}
RUNNING: set["Process"] = set()  # games that have not been closed
SERIAL = itertools.count(1)  # serial numbers of observations, the last entry of each agent's observation


class ConnectionLost(Exception):
    """pysc2's exception for a crash of the game."""


class Process:
    """A running game with its own seeded generator."""

    def __init__(self, options: dict[str, Any], map_name: str, seed: int | None):
        if not os.path.isdir(os.environ["SC2PATH"]):
            raise FileNotFoundError(2, "No such file or directory", os.environ["SC2PATH"])
        self.options, self.random, self.counts = options, random.Random(seed), {"step": 0, "observe": 0}
        RUNNING.add(self)
        if "log" in options:
            with open(options["log"], "a") as log:
                log.write(f"seed {seed or 0} map {map_name}\n")

    def close(self) -> None:
        RUNNING.discard(self)

    def request(self, kind: str) -> None:
        self.counts[kind] += 1
        marker = Path(self.options.get("crash_marker", "none"))
        if self.options.get("crash_at", {}).get(kind) == self.counts[kind] and not marker.exists():
            marker.touch()
            raise ConnectionLost


class StarCraft2Env:
    def __init__(
        self,
        map_name: str,
        seed: int | None = None,
        continuing_episode: bool = False,
        capability_config: dict[str, Any] | None = None,
        obs_last_action: bool = False,
        reward_scale: bool = True,
        reward_scale_rate: float = 20,
        reward_win: float = 200,
        **options: Any,
    ):
        self.battle = json.loads(os.environ.get("BATTLE", "{}"))
        self.map_name, self._seed, self.continuing_episode = map_name, seed, continuing_episode
        self.n_agents, self.n_enemies, self.episode_limit = MAPS[map_name]
        if capability_config:
            self.n_agents = capability_config["team_gen"]["n_units"]
            self.n_enemies = capability_config["team_gen"]["n_enemies"]
        self.random_start = "start_positions" in (capability_config or {})
        self.n_actions = 6 + self.n_enemies
        self.obs_size = 4 + 5 * self.n_enemies + (self.n_agents - 1) * (5 + obs_last_action * self.n_actions) + 2
        self.reward_scale, self.reward_scale_rate, self.reward_win = reward_scale, reward_scale_rate, reward_win
        self.max_reward = self.n_enemies * 10 + reward_win
        self.agents: dict[int, Any] = {}
        self.enemies: dict[int, Any] = {}
        self.map_x = self.map_y = 32
        self._episode_count = self._episode_steps = self.force_restarts = 0
        self._sc2_proc: Process | None = None

    def _launch(self) -> None:
        self._sc2_proc = Process(self.battle, self.map_name, self._seed)

    def full_restart(self) -> None:
        self._sc2_proc.close()
        self._launch()
        self.force_restarts += 1

    def reset(self, episode_config: dict[str, Any] | None = None) -> Any:
        config = episode_config or {}
        self._episode_steps = 0
        if self._episode_count == 0:
            if self._sc2_proc is not None:
                self._sc2_proc.close()  # as its __del__ does when it is replaced
            self._launch()
        try:
            self._sc2_proc.request("observe")
            self._init_units(config)
        except ConnectionLost:
            self.full_restart()
        return self.get_obs(), self.get_state()

    def _init_units(self, config: dict[str, Any]) -> None:
        n, m = self.n_agents, self.n_enemies
        team = config.get("team_gen", {}).get("ally_team", ["marine"] * n)
        if self.random_start:
            ours, theirs = config["ally_start_positions"]["item"], config["enemy_start_positions"]["item"]
        else:
            ours, theirs = [(12, 16)] * n, [(16, 16)] * m
        noise = self._sc2_proc.random.random
        self.agents = {i: unit(ours[i][0] + noise() / 10, ours[i][1], team[i]) for i in range(n)}
        self.enemies = {i: unit(theirs[i][0] + noise() / 10, theirs[i][1], "enemy") for i in range(m)}
        if self._episode_count == 0:
            self.max_reward += sum(enemy.health_max for enemy in self.enemies.values())

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        for i, action in enumerate(actions):
            assert self.get_avail_agent_actions(i)[action] == 1, f"Agent {i} cannot perform action {action}"
        health_before = sum(enemy.health for enemy in self.enemies.values())
        try:
            self._sc2_proc.request("step")
            self._sc2_proc.request("observe")
        except ConnectionLost:
            self.full_restart()
            return 0, True, {}
        self._fight(actions)
        self._episode_steps += 1
        allies = [ally for ally in self.agents.values() if ally.health > 0]
        enemies = [enemy for enemy in self.enemies.values() if enemy.health > 0]
        info = {"battle_won": False, "dead_allies": self.n_agents - len(allies)}
        reward = health_before - sum(enemy.health for enemy in enemies)
        terminated = False
        if not (allies and enemies):
            terminated = True
            info["battle_won"] = bool(allies)
            reward += self.reward_win * bool(allies)
        elif self._episode_steps >= self.episode_limit:
            terminated = True
            if self.continuing_episode:
                info["episode_limit"] = True
        self._episode_count += terminated
        if self.reward_scale:
            reward /= self.max_reward / self.reward_scale_rate
        return reward, terminated, info

    def _fight(self, actions: list[int]) -> None:
        rng, battle = self._sc2_proc.random, self.battle
        for i, action in enumerate(actions):
            ally = self.agents[i]
            if action >= 6:
                damage_unit(self.enemies[action - 6], battle.get("ally_damage", 6) * rng.uniform(0.9, 1.1))
            elif action >= 2:
                dx, dy = ((0, 2), (0, -2), (2, 0), (-2, 0))[action - 2]
                ally.pos = SimpleNamespace(x=min(max(ally.pos.x + dx, 0), 31), y=min(max(ally.pos.y + dy, 0), 31))
        for enemy in self.enemies.values():
            targets = [ally for ally in self.agents.values() if ally.health > 0]
            if enemy.health > 0 and targets:
                damage_unit(rng.choice(targets), battle.get("enemy_damage", 3) * rng.uniform(0.9, 1.1))
        if battle.get("enemies_leave_at") == self._sc2_proc.counts["step"]:
            for enemy in self.enemies.values():
                enemy.health = 0

    def get_obs(self) -> list[np.ndarray]:
        order = list(range(self.n_agents))
        random.shuffle(order)  # as smacv2, from the global stream
        observations: list[Any] = [None] * self.n_agents
        serial = next(SERIAL)
        for i in order:
            observations[i] = np.zeros(self.obs_size, np.float32)
            ally = self.agents[i]
            if ally.health > 0:
                observations[i][:3] = ally.health / ally.health_max, ally.pos.x / 32, ally.pos.y / 32
                observations[i][3] = sum(map(ord, ally.unit_type)) / 1000
                observations[i][4] = np.random.rand()  # smacv2 draws whether teammates see an enemy as well
                if self.battle.get("serials"):
                    observations[i][-1] = serial
        return observations

    def get_state(self) -> np.ndarray:
        units = [*self.agents.values(), *self.enemies.values()]
        return np.array([[u.health / u.health_max, u.pos.x / 32, u.pos.y / 32] for u in units], np.float32).ravel()

    def get_avail_agent_actions(self, i: int) -> list[int]:
        ally = self.agents[i]
        if ally.health == 0:
            return [1] + [0] * (self.n_actions - 1)
        moves = [ally.pos.y < 31, ally.pos.y > 0, ally.pos.x < 31, ally.pos.x > 0]
        in_range = [
            enemy.health > 0 and np.hypot(ally.pos.x - enemy.pos.x, ally.pos.y - enemy.pos.y) <= 6
            for enemy in self.enemies.values()
        ]
        return [0, 1, *map(int, moves), *map(int, in_range)]

    def get_avail_actions(self) -> list[list[int]]:
        return [self.get_avail_agent_actions(i) for i in range(self.n_agents)]

    def get_env_info(self) -> dict[str, Any]:
        return {
            "state_shape": 3 * (self.n_agents + self.n_enemies),
            "obs_shape": self.obs_size,
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def close(self) -> None:
        if self._sc2_proc:
            self._sc2_proc.close()


def unit(x: float, y: float, unit_type: str) -> SimpleNamespace:
    pos = SimpleNamespace(x=float(np.clip(x, 0, 31)), y=float(np.clip(y, 0, 31)))
    return SimpleNamespace(pos=pos, health=45.0, health_max=45.0, radius=0.5, unit_type=unit_type)


def damage_unit(target: SimpleNamespace, damage: float) -> None:
    target.health = max(0.0, target.health - damage)


class Teams:
    """Stand-in for smacv2's weighted_teams."""

    def __init__(self, config: dict[str, Any]):
        self.config, self.rng = config, np.random.default_rng()

    def generate(self) -> dict[str, Any]:
        config = self.config
        team = list(self.rng.choice(config["unit_types"], size=config["n_units"], p=config["weights"]))
        random.shuffle(team)
        return {"team_gen": {"ally_team": team}}


class Positions:
    """Stand-in for smacv2's reflect_position, whose generator is nested one object deeper."""

    def __init__(self, config: dict[str, Any]):
        self.config, self.pos_generator = config, Uniform(config)

    def generate(self) -> dict[str, Any]:
        ours = self.pos_generator.generate()
        theirs = self.pos_generator.generate() + (self.config["map_x"] / 2, 0)
        return {"ally_start_positions": {"item": ours}, "enemy_start_positions": {"item": theirs}}


class Uniform:
    def __init__(self, config: dict[str, Any]):
        self.config, self.rng = config, np.random.default_rng()

    def generate(self) -> np.ndarray:
        n = max(self.config["n_units"], self.config["n_enemies"])
        return self.rng.uniform((0, 0), (self.config["map_x"] / 2 - 1, self.config["map_y"]), (n, 2))


class StarCraftCapabilityEnvWrapper:
    def __init__(self, **kwargs: Any):
        config = self.distribution_config = kwargs["capability_config"]
        self.env_key_to_distribution_map = {}
        for key, section in config.items():
            if key in ("n_units", "n_enemies"):
                continue
            section |= {"env_key": key, "n_units": config["n_units"], "n_enemies": config["n_enemies"]}
            self.env_key_to_distribution_map[key] = {"team_gen": Teams, "start_positions": Positions}[key](section)
        self.env = StarCraft2Env(**kwargs)

    def reset(self) -> Any:
        drawn: dict[str, Any] = {}
        for distribution in self.env_key_to_distribution_map.values():
            drawn |= distribution.generate()
        return self.env.reset(drawn)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)  # as in smacv2, recurses infinitely in a copy without `env`


def install(modules: dict[str, ModuleType] = sys.modules) -> None:
    """Install the stand-ins for the packages and their dependencies as importable modules."""
    for name in ("pysc2", "s2clientprotocol", "portpicker", "websocket", "smac", "smac.env", "smacv2", "smacv2.env"):
        modules[name] = module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
    for name in ("smacv2.env.starcraft2", "smacv2.env.starcraft2.wrapper"):
        modules[name] = ModuleType(name)
    modules["smac.env"].StarCraft2Env = StarCraft2Env  # type: ignore[attr-defined]
    modules["smacv2.env.starcraft2.wrapper"].StarCraftCapabilityEnvWrapper = (  # type: ignore[attr-defined]
        StarCraftCapabilityEnvWrapper
    )
