"""SMAX of JaxMARL: StarCraft-like battles of a team of units against a scripted one, simulated in JAX."""

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

import numpy as np

from rllib_seqmarl.envs.batched_simulator import BatchObservation
from rllib_seqmarl.envs.options import check_choice, check_options
from rllib_seqmarl.envs.single_team import single
from rllib_seqmarl.envs.suite import Suite
from rllib_seqmarl.envs.suites.battle_picture import Unit, draw_battle
from rllib_seqmarl.envs.suites.jax_batch import (
    NEVER,
    JaxBatchedSimulator,
    JaxSimulator,
    State,
    import_jax,
    make_simulator,
)
from rllib_seqmarl.envs.suites.smac import TASKS as SMAC_TASKS

STOP = 4  # the action of standing still; 0 to 3 are directions, higher actions shoot at an enemy

TASKS = {
    **{name: SMAC_TASKS[name] for name in ("3m", "8m", "25m", "2s3z", "3s5z", "5m_vs_6m", "10m_vs_11m", "27m_vs_30m")},
    **{name: SMAC_TASKS[name] for name in ("3s_vs_5z", "3s5z_vs_3s6z", "6h_vs_8z")},
    **{f"smacv2_{n}_units": f"{n} units against {n}, of random types at random positions." for n in (5, 10, 20)},
}


@cache
def _import_smax() -> ModuleType:
    """Import `jaxmarl.environments.smax` without its parents, which import every environment and print.

    Empty modules replace the parents during the import. All are then removed from `sys.modules`, so that a later
    `import jaxmarl` does not find incomplete packages.
    """
    import_jax()
    name = "jaxmarl.environments.smax"
    if "jaxmarl" not in sys.modules:
        for parent in ("jaxmarl", "jaxmarl.environments"):
            spec = find_spec(parent)
            assert spec is not None
            sys.modules[parent] = module_from_spec(spec)
        module = import_module(name)
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "jaxmarl"]:
            del sys.modules[loaded]
        return module
    return import_module(name)


class Smax(JaxSimulator):
    """See `make_smax_batch`."""

    def __init__(self, task: str, max_steps: int, **options: Any):
        smax: Any = _import_smax()
        self.env = smax.HeuristicEnemySMAX(scenario=smax.map_name_to_scenario(task), max_steps=NEVER, **options)
        self.max_steps = max_steps
        self.agents = tuple(self.env.agents)
        self.obs_size = self.env.obs_size
        self.num_choices = self.env.num_ally_actions
        self.state_dim = self.env.state_size

    def reset(self, key: Any) -> State:
        jax = import_jax()
        key, reset_key = jax.random.split(key)
        _, battle = self.env.reset(reset_key)
        return key, battle

    def step(self, state: State, actions: Any) -> tuple[State, Any, Any, Any, Any]:
        jax = import_jax()
        jnp = jax.numpy
        key, battle = state
        key, step_key = jax.random.split(key)
        n = len(self.agents)
        actions = jnp.where(battle.state.unit_alive[:n], actions, STOP)
        _, battle, rewards, _, _ = self.env.step_env(step_key, battle, dict(zip(self.agents, actions, strict=True)))
        allies, enemies = battle.state.unit_alive[:n].any(), battle.state.unit_alive[n:].any()
        terminated = ~(allies & enemies)
        truncated = ~terminated & (battle.state.step > self.max_steps)
        rewards = jnp.stack([rewards[agent] for agent in self.agents])
        return (key, battle), rewards, terminated, truncated, (allies & ~enemies).astype(jnp.float32)

    def observe(self, state: State) -> BatchObservation:
        jnp = import_jax().numpy
        _, battle = state
        obs, action_mask = self.env.get_obs(battle), self.env.get_avail_actions(battle)
        return BatchObservation(
            observations=jnp.stack([obs[agent] for agent in self.agents]),
            alive=battle.state.unit_alive[: len(self.agents)],
            action_mask=jnp.stack([action_mask[agent] for agent in self.agents]).astype(bool),
            state=self.env.get_world_state(battle),
        )

    def render(self, state: State) -> np.ndarray:
        units, env = import_jax().device_get(state[1].state), self.env
        return draw_battle(
            env.map_width,
            env.map_height,
            (
                Unit(
                    x=float(units.unit_positions[unit, 0]),
                    y=float(units.unit_positions[unit, 1]),
                    radius=float(env.unit_type_radiuses[kind]),
                    health=float(units.unit_health[unit] / env.unit_type_health[kind]),
                    is_ally=unit < len(self.agents),
                    kind=env.unit_type_shorthands[kind],
                )
                for unit, kind in enumerate(units.unit_types.tolist())
                if units.unit_alive[unit]
            ),
        )


def make_smax_batch(
    task: str,
    num_envs: int,
    *,
    max_steps: int = 100,
    attack_mode: str = "closest",
    enemy_shoots: bool = True,
    see_enemy_actions: bool = True,
    walls_cause_death: bool = True,
    won_battle_bonus: float = 1.0,
    render_mode: str | None = None,
) -> JaxBatchedSimulator:
    """Make battles against the scripted enemy.

    All agents, including dead ones, get the same reward: the fraction of the enemies' health destroyed in the step,
    plus a bonus for a win, that is, if all enemies are dead and an ally is alive. Dead agents can only stop. The global
    state contains every unit's features.

    Args:
        task: A key of `TASKS`.
        num_envs: Number of copies.
        max_steps: Step limit, >= 1. As in JaxMARL, a battle is truncated one step later, by default after 101 steps.
        attack_mode: Which of the agents in range an enemy shoots: the "closest" or a "random" one.
        enemy_shoots: Whether enemies attack at all.
        see_enemy_actions: Whether agents observe the enemies' last actions.
        walls_cause_death: Whether a unit that touches the edge of the map dies.
        won_battle_bonus: Reward for a won battle, >= 0.
        render_mode: None or "rgb_array".
    """
    check_choice("task", task, TASKS)
    check_choice("attack_mode", attack_mode, ("closest", "random"))
    check_options(make_smax_batch, locals(), {"max_steps": 1, "won_battle_bonus": 0})
    simulator = make_simulator(
        Smax,
        task=task,
        max_steps=max_steps,
        attack_mode=attack_mode,
        enemy_shoots=bool(enemy_shoots),
        see_enemy_actions=bool(see_enemy_actions),
        walls_cause_death=bool(walls_cause_death),
        won_battle_bonus=float(won_battle_bonus),
    )
    return JaxBatchedSimulator(simulator, num_envs, render_mode)


SUITE = Suite(
    name="smax",
    tasks=TASKS,
    make=single(make_smax_batch),
    make_batch=make_smax_batch,
    requires=("jaxmarl",),
    extra="smax",
)
