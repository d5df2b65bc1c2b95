"""Tests that SMAX matches JaxMARL, masks and rewards dead agents, and distinguishes terminations and truncations."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
if find_spec("jaxmarl") is None:  # without importing it, so that the adapter is the first to do so
    pytest.skip("needs jaxmarl", allow_module_level=True)

import jax

from rllib_seqmarl.envs import make_joint_env
from rllib_seqmarl.envs.suites.jax_batch import JaxBatchedSimulator
from rllib_seqmarl.envs.suites.smax import STOP, TASKS, make_smax_batch

COPIES, MAX_STEPS = 8, 14
NO_RESET = np.zeros(COPIES, np.bool_)
ALL_STOP = np.full((COPIES, 3), STOP)


def make_battles() -> JaxBatchedSimulator:
    """Make battles of 3 marines against 3. All tests share one simulator, which is compiled once."""
    batch = make_smax_batch("3m", COPIES, max_steps=MAX_STEPS)
    batch.reset(list(range(COPIES)))
    return batch


def set_state(batch: JaxBatchedSimulator, **fields: Any) -> None:
    """Change fields of the units' state in all copies."""
    keys, (stream, battle) = batch._carry  # type: ignore[misc]
    batch._carry = keys, (stream, battle.replace(state=battle.state.replace(**fields)))


def health(allies: list[float], enemies: list[float]) -> Any:
    return jax.numpy.tile(jax.numpy.array([*allies, *enemies], float), (COPIES, 1))


def sample_actions(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (rng.random(mask.shape) * mask).argmax(axis=-1)


def test_steps_match_jaxmarl() -> None:
    batch = make_battles()
    batch_obs = batch.reset(list(range(COPIES)))
    from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario  # still works after the adapter's

    bare = HeuristicEnemySMAX(scenario=map_name_to_scenario("3m"), max_steps=MAX_STEPS)
    assert batch.agents == tuple(bare.agents)

    @jax.jit
    @jax.vmap
    def step(stream: Any, state: Any, actions: Any) -> Any:
        stream, key = jax.random.split(stream)
        obs, state, rewards, dones, _ = bare.step_env(key, state, dict(zip(bare.agents, actions, strict=True)))
        return stream, obs, state, rewards, dones, bare.get_avail_actions(state)

    key_seeds = np.array([np.random.SeedSequence(seed).generate_state(1)[0] for seed in range(COPIES)])
    first = jax.vmap(lambda seed: jax.random.split(jax.random.PRNGKey(seed))[1])(key_seeds)
    stream, start = jax.numpy.unstack(jax.vmap(jax.random.split)(first), axis=1)
    obs, state = jax.jit(jax.vmap(bare.reset))(start)
    rng, running, ends = np.random.default_rng(0), ~NO_RESET, set()
    for steps in range(1, MAX_STEPS + 3):
        for row, agent in enumerate(bare.agents):
            np.testing.assert_allclose(batch_obs.observations[running, row], obs[agent][running], atol=1e-5)
        assert batch_obs.state is not None and batch_obs.action_mask is not None
        np.testing.assert_allclose(batch_obs.state[running], obs["world_state"][running], atol=1e-4)
        # JaxMARL's dead units need a stop action; ours get any action, and stop.
        actions = sample_actions(batch_obs.action_mask, rng)
        ours = np.where(batch_obs.alive, actions, rng.integers(0, 8, actions.shape))
        stream, obs, state, rewards, dones, action_mask = step(stream, state, np.where(batch_obs.alive, actions, STOP))
        result = batch.step(ours, ~running)
        batch_obs, ended = result.observation, result.terminated | result.truncated
        assert batch_obs.action_mask is not None
        np.testing.assert_array_equal(ended[running], dones["__all__"][running])
        for row, agent in enumerate(bare.agents):
            np.testing.assert_allclose(result.rewards[running, row], rewards[agent][running], atol=1e-6)
            np.testing.assert_array_equal(batch_obs.action_mask[running, row], action_mask[agent][running])
            np.testing.assert_array_equal(batch_obs.alive[running, row], ~np.asarray(dones[agent])[running])
        assert not (result.terminated & result.truncated).any()
        if (running & result.truncated).any():
            ends.add("truncated")
            assert steps == MAX_STEPS + 1  # as JaxMARL counts
        if (running & result.terminated).any():
            ends.add("terminated")
        running = running & ~ended
    assert not running.any() and ends == {"terminated", "truncated"}


def test_dead_agents_stay_dead_can_only_stop_and_are_rewarded() -> None:
    batch = make_battles()
    # Allies and enemies are in range, and the first ally dies in this step.
    places = jax.numpy.tile(
        jax.numpy.array([[10.0, 10 + 2 * i] for i in range(3)] + [[13.0, 10 + 2 * i] for i in range(3)]), (COPIES, 1, 1)
    )
    set_state(batch, unit_positions=places, unit_health=health([0, 999, 999], [99, 99, 99]))
    shoot = np.tile([STOP, 5, 5], (COPIES, 1))
    batch_obs, rewards, terminated, _, _ = batch.step(shoot, NO_RESET)
    rewarded = False
    for _ in range(4):
        assert not terminated.any()
        np.testing.assert_array_equal(batch_obs.alive, np.tile([False, True, True], (COPIES, 1)))
        assert batch_obs.action_mask is not None
        np.testing.assert_array_equal(np.flatnonzero(batch_obs.action_mask[0, 0]), [STOP])
        assert batch_obs.action_mask[0, 1, :STOP].all() and batch_obs.action_mask[0, 1, STOP + 1 :].any()
        np.testing.assert_array_equal(rewards[:, 0], rewards[:, 1])
        rewarded = rewarded or (rewards[:, 0] > 0).all()
        batch_obs, rewards, terminated, _, _ = batch.step(shoot, NO_RESET)
    assert rewarded
    assert batch.step(shoot, ~NO_RESET).observation.alive.all()  # a new episode


@pytest.mark.parametrize("steps_before", [0, MAX_STEPS])
@pytest.mark.parametrize(
    ("allies", "enemies", "terminated", "win"),
    [
        ([9, 0, 0], [0, 0, 0], True, 1),
        ([0, 0, 0], [0, 0, 9], True, 0),
        ([0, 0, 0], [0, 0, 0], True, 0),  # no bonus for a draw
        ([9, 9, 9], [9, 9, 9], False, 0),
    ],
)
def test_ends(allies: list[float], enemies: list[float], terminated: bool, win: float, steps_before: int) -> None:
    batch = make_battles()
    set_state(batch, unit_health=health(allies, enemies), step=jax.numpy.full(COPIES, steps_before, "int32"))
    result = batch.step(ALL_STOP, NO_RESET)
    np.testing.assert_array_equal(result.terminated, [terminated] * COPIES)
    np.testing.assert_array_equal(result.truncated, [not terminated and steps_before == MAX_STEPS] * COPIES)
    assert result.wins is not None
    np.testing.assert_array_equal(result.wins, [win] * COPIES)
    np.testing.assert_array_equal(result.rewards, np.full((COPIES, 3), float(win)))


def test_a_single_environment_matches_a_copy_in_a_batch() -> None:
    """An environment and a copy in a batch play the same episode. Passive enemies lose to any agent in range."""
    options = {"enemy_shoots": False, "won_battle_bonus": 3.0, "render_mode": "rgb_array"}
    env = make_joint_env("smax/3m", options)
    batch = make_smax_batch("3m", 2, **options)  # type: ignore[arg-type]
    observation, _ = env.reset(seed=5)
    batch_obs = batch.reset([4, 5])
    total, terminated, info = 0.0, False, {}
    before = env.render()
    while not terminated:
        np.testing.assert_array_equal(
            observation["observations"][:, : batch_obs.observations.shape[2]], batch_obs.observations[1]
        )
        mask = observation["action_mask"]
        in_range = mask[:, STOP + 1 :].any(axis=1)
        actions = np.where(in_range, STOP + 1 + mask[:, STOP + 1 :].argmax(axis=1), 1)  # shoot, or move right
        observation, reward, terminated, truncated, info = env.step(actions)
        batch_obs = batch.step(np.stack([actions, actions]), np.zeros(2, np.bool_)).observation
        total += reward
        assert not truncated
    assert info["win"] == 1
    assert total == pytest.approx(1 + 3)  # all of the enemies' health, and the bonus
    after = env.render()
    assert before.dtype == np.uint8 and before.shape == after.shape == (512, 512, 3) and (before != after).any()


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 0},
        {"attack_mode": "weakest"},
        {"enemy_shoots": "no"},
        {"see_enemy_actions": None},
        {"walls_cause_death": 2},
        {"won_battle_bonus": -1.0},
        {"render_mode": "human"},
    ],
)
def test_invalid_values_are_rejected(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        make_smax_batch("3m", 1, **options)


def test_all_scenarios_are_listed() -> None:
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

    assert set(TASKS) == set(MAP_NAME_TO_SCENARIO)
