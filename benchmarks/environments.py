"""Env steps per second of every suite: the bare package, our adapter, and the joint environment that RLlib steps.

The three alternate in one process with random legal actions, and medians over rounds are compared to reduce noise.
Batched simulators step 64 copies.

    python benchmarks/environments.py [NAME ...] [--rounds 5] [--seconds 1]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rllib_seqmarl.envs import CATALOG, make_env, make_joint_env
from rllib_seqmarl.envs.joint_env_creator import JointEnvCreator

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
COPIES = 64
RESULTS = Path(__file__).parent / "results" / "environments.json"
Step = Callable[[], tuple[int, float]]  # steps; returns the number of env steps and the seconds they took


def timed(copies: int, move: Callable[..., Any], *args: Any) -> tuple[Any, tuple[int, float]]:
    """Return the result of `move` with its env steps and seconds; excludes the choice of legal actions."""
    start = time.perf_counter()
    result = move(*args)
    return result, (copies, time.perf_counter() - start)


def parallel(make: Callable[[], Any]) -> Step:
    """Step a ParallelEnv with random actions and reset it after every episode."""
    env = make()
    for i, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(i)
    # Drawn in advance, since sampling would be as slow as some of the environments.
    drawn = [{agent: env.action_space(agent).sample() for agent in env.possible_agents} for _ in range(64)]
    infos: dict[Any, Any] = env.reset(seed=0)[1]
    rng, count = np.random.default_rng(0), 0

    def step() -> tuple[int, float]:
        nonlocal infos, count
        if not env.agents:
            infos = env.reset()[1]
        actions = drawn[count % 64]
        count += 1
        acts = {}
        for agent in env.agents:
            mask = infos.get(agent, {}).get("action_mask")
            action = actions[agent]
            if mask is not None and not mask[action]:
                action = int(rng.choice(np.flatnonzero(mask)))
            acts[agent] = action
        (*_, infos), timing = timed(1, env.step, acts)
        return timing

    return step


def gymnasium_team(make: Callable[[], Any]) -> Step:
    """Step a gymnasium environment that takes a tuple of actions."""
    env = make()
    env.action_space.seed(0)
    drawn = [env.action_space.sample() for _ in range(64)]
    env.reset(seed=0)
    count, is_over = 0, False

    def step() -> tuple[int, float]:
        nonlocal count, is_over
        if is_over:
            env.reset()
        count += 1
        (_, _, terminated, truncated, _), timing = timed(1, env.step, drawn[count % 64])
        is_over = terminated or truncated
        return timing

    return step


def joint(env: Any) -> Step:
    """Step a JointEnv, or a batch of them, with random legal actions."""
    copies = getattr(env, "num_envs", 1)
    if copies == 1 and not env.layout.is_discrete:  # same actions as in `parallel`: the cost of physics depends on them
        for i, space in enumerate(env.layout.action_spaces):
            space.seed(i)
        drawn = [np.stack([space.sample() for space in env.layout.action_spaces]) for _ in range(64)]
    else:
        env.action_space.seed(0)
        drawn = [env.action_space.sample() for _ in range(64)]
    obs, _ = env.reset(seed=0)
    count, is_over = 0, False

    def step() -> tuple[int, float]:
        nonlocal obs, count, is_over
        if copies == 1 and is_over:
            obs, _ = env.reset()
        action = drawn[count % 64]
        count += 1
        mask = obs.get("action_mask")
        if mask is not None and action.ndim == mask.ndim - 1 and np.issubdtype(action.dtype, np.integer):
            action = legal(action, mask)
        (obs, _, terminated, truncated, _), timing = timed(copies, env.step, action)
        is_over = copies == 1 and (terminated or truncated)
        return timing

    return step


def legal(choices: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Replace choices (..., n) that the mask (..., n, choices) forbids by the first legal ones."""
    allowed = np.take_along_axis(mask, choices[..., None], axis=-1)[..., 0]
    return np.where(allowed, choices, mask.argmax(axis=-1))


def team_batch(batch: Any) -> Step:
    """Step a BatchedSimulator without a joint environment around it."""
    rng = np.random.default_rng(0)
    shape = (64, batch.num_envs, len(batch.agents))
    first = batch.action_spaces[0]
    if hasattr(first, "n"):
        drawn = rng.integers(min(space.n for space in batch.action_spaces), size=shape)
    else:
        drawn = rng.uniform(-1, 1, (*shape, first.shape[0])).astype(np.float32)
    obs = batch.reset(list(range(batch.num_envs)))
    reset_mask, count = np.zeros(batch.num_envs, np.bool_), 0

    def step() -> tuple[int, float]:
        nonlocal obs, reset_mask, count
        count += 1
        actions = drawn[count % 64]
        if obs.action_mask is not None:
            actions = legal(actions, obs.action_mask)
        (obs, _, terminated, truncated, _), timing = timed(batch.num_envs, batch.step, actions, reset_mask)
        reset_mask = terminated | truncated
        return timing

    return step


def jax_loop(reset: Callable[[Any], Any], move: Callable[..., Any], agents: int, choices: int) -> Step:
    """Step a self-resetting JAX simulator, all copies in one compiled call; results stay on the device."""
    import jax

    keys = jax.random.split(jax.random.PRNGKey(0), COPIES)
    carry = jax.jit(jax.vmap(reset))(keys)
    compiled = jax.jit(jax.vmap(move))
    drawn = np.random.default_rng(0).integers(choices, size=(64, COPIES, agents))
    count = 0

    def step() -> tuple[int, float]:
        nonlocal carry, count
        count += 1
        carry, timing = timed(COPIES, lambda: jax.block_until_ready(compiled(carry, drawn[count % 64])))
        return timing

    return step


def bare_jumanji(task: str) -> Step:
    from jumanji.wrappers import AutoResetWrapper

    entry = CATALOG[task]
    assert entry.suite.make_batch is not None
    simulator = entry.suite.make_batch(entry.task, 1).simulator  # only for Jumanji's own environment
    env = AutoResetWrapper(simulator.env)
    return jax_loop(
        env.reset, lambda carry, actions: env.step(carry[0], actions), env.num_agents, simulator.num_choices
    )


def bare_smax(scenario: str) -> Step:
    import jax
    from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

    env = HeuristicEnemySMAX(scenario=map_name_to_scenario(scenario))

    def reset(key: Any) -> Any:
        return key, env.reset(key)

    def move(carry: Any, actions: Any) -> Any:
        key, (_, state, *_) = carry
        key, used = jax.random.split(key)
        obs, state, *rest = env.step(used, state, dict(zip(env.agents, actions, strict=True)))
        return key, (obs, state, *rest, env.get_avail_actions(state))

    def first(key: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf, move(reset(key), np.full(env.num_allies, 4)))

    return jax_loop(first, move, env.num_allies, 5)


def bare_vmas(scenario: str) -> Step:
    import vmas

    env = vmas.make_env(scenario, COPIES, device="cpu", terminated_truncated=True, max_steps=100, seed=0)
    drawn = [[env.get_random_action(agent) for agent in env.agents] for _ in range(64)]
    count = 0

    def step() -> tuple[int, float]:
        nonlocal count
        count += 1
        return timed(COPIES, move, drawn[count % 64])[1]

    def move(actions: Any) -> None:
        _, _, terminated, truncated, _ = env.step(actions)
        if truncated.all():
            env.reset()
        else:
            for copy in np.flatnonzero((terminated | truncated).numpy()).tolist():
                env.reset_at(copy)

    return step


def bare_mpe(module: str) -> Step:
    import importlib

    return parallel(importlib.import_module(f"mpe2.{module}").parallel_env)


def bare_pettingzoo(module: str, **options: Any) -> Step:
    """Step an environment of PettingZoo. Agents that observe the screen need a render mode, else it never changes."""
    import importlib

    return parallel(lambda: importlib.import_module(f"pettingzoo.{module}").parallel_env(**options))


def bare_gymnasium(package: str, name: str) -> Step:
    import importlib

    import gymnasium

    importlib.import_module(package)
    return gymnasium_team(lambda: gymnasium.make(name, disable_env_checker=True).unwrapped)


def bare_mamujoco(domain: str, factorisation: str) -> Step:
    from gymnasium_robotics import mamujoco_v1

    return parallel(lambda: mamujoco_v1.parallel_env(domain, factorisation, agent_obsk=0))


def bare_dexhands(task: str) -> Step:
    """Step only the physics."""
    import mujoco

    from rllib_seqmarl.envs.suites.dexhands_model import SUBSTEPS

    env = make_env(task)
    env.reset(seed=0)
    model, data, rng = env.model, env.data, np.random.default_rng(0)
    low, high = model.actuator_ctrlrange.T
    drawn = rng.uniform(low, high, (64, model.nu))
    count = 0

    def step() -> tuple[int, float]:
        nonlocal count
        count += 1
        data.ctrl[:] = drawn[count % 64]
        if count % 100 == 0:
            mujoco.mj_resetData(model, data)
        return timed(1, mujoco.mj_step, model, data, SUBSTEPS)[1]

    return step


BARE: dict[str, Callable[[], Step]] = {
    "mpe/simple_spread": lambda: bare_mpe("simple_spread_v3"),
    "sisl/multiwalker": lambda: bare_pettingzoo("sisl.multiwalker_v9"),
    "sisl/pursuit": lambda: bare_pettingzoo("sisl.pursuit_v5"),
    "butterfly/knights_archers_zombies": lambda: bare_pettingzoo("butterfly.knights_archers_zombies_v11"),
    "butterfly/cooperative_pong": lambda: bare_pettingzoo("butterfly.cooperative_pong_v6", render_mode="rgb_array"),
    "butterfly/pistonball": lambda: bare_pettingzoo("butterfly.pistonball_v6", render_mode="rgb_array"),
    "rware/tiny-4ag": lambda: bare_gymnasium("rware", "rware-tiny-4ag-v2"),
    "lbf/15x15-4p-3f": lambda: bare_gymnasium("lbforaging", "Foraging-15x15-4p-3f-v3"),
    "mamujoco/HalfCheetah-6x1": lambda: bare_mamujoco("HalfCheetah", "6x1"),
    "dexhands/door_open_inward": lambda: bare_dexhands("dexhands/door_open_inward"),
    "vmas/transport": lambda: bare_vmas("transport"),
    "jumanji-rware/tiny-2ag": lambda: bare_jumanji("jumanji-rware/tiny-2ag"),
    "jumanji-lbf/15x15-4p-5f": lambda: bare_jumanji("jumanji-lbf/15x15-4p-5f"),
    "jumanji-connector/con-10x10x10a": lambda: bare_jumanji("jumanji-connector/con-10x10x10a"),
    "jumanji-cleaner/clean-10x10x3a": lambda: bare_jumanji("jumanji-cleaner/clean-10x10x3a"),
    "smax/2s3z": lambda: bare_smax("2s3z"),
}


def steps_per_second(step: Step, seconds: float) -> float:
    steps, spent = 0, 0.0
    while spent < seconds:
        more, took = step()
        steps, spent = steps + more, spent + took
    return steps / spent


def measure(name: str, rounds: int, seconds: float) -> dict[str, float]:
    """Return the median env steps/s of the bare package, the adapter and the joint environment."""
    entry = CATALOG[name]
    contestants: dict[str, Step] = {"bare": BARE[name]()}
    if entry.suite.make_batch is None:
        contestants["adapter"] = parallel(lambda: make_env(name))
        contestants["joint"] = joint(make_joint_env(name))
    else:
        contestants["adapter"] = team_batch(entry.make_batch(COPIES))
        contestants["joint"] = joint(JointEnvCreator(name).make_vector(COPIES, {}))
    for step in contestants.values():
        steps_per_second(step, 0.2)  # compiles and passes the first reset
    speeds: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for _ in range(rounds):
        for contestant, step in contestants.items():
            speeds[contestant].append(steps_per_second(step, seconds))
    return {contestant: statistics.median(values) for contestant, values in speeds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *BARE], default=[], help="environments [all]")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (the median counts)")
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of a measurement")
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    print("| environment | copies | bare, env steps/s | adapter | joint environment |\n|---|---|---|---|---|")
    for name in args.names or BARE:
        measured = measure(name, args.rounds, args.seconds)
        speeds = results[name] = {contestant: round(speed) for contestant, speed in measured.items()}
        copies = COPIES if CATALOG[name].suite.make_batch else 1
        cells = [
            f"{speeds[contestant]:,.0f} ({speeds[contestant] / speeds['bare']:.0%})"
            for contestant in ("adapter", "joint")
        ]
        print(f"| `{name}` | {copies} | {speeds['bare']:,.0f} | {' | '.join(cells)} |", flush=True)
        RESULTS.write_text(json.dumps({name: results[name] for name in BARE if name in results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
