"""SMAX gives JaxMARL's own numbers; its dead are masked and rewarded, and its ends are told apart."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
if find_spec("jaxmarl") is None:  # asked so that the adapter is the first to import it
    pytest.skip("needs jaxmarl", allow_module_level=True)

import jax

from rllib_seqmarl.envs import make_joint_env
from rllib_seqmarl.envs.suites.jax_batch import JaxBatchedSimulator
from rllib_seqmarl.envs.suites.smax import STOP, TASKS, make_smax_batch

COPIES, MAX_STEPS = 8, 14
GO_ON = np.zeros(COPIES, np.bool_)
STAND = np.full((COPIES, 3), STOP)


def battles() -> JaxBatchedSimulator:
    """3 marines against 3; all tests share one simulator, which is compiled once."""
    batch = make_smax_batch("3m", COPIES, max_steps=MAX_STEPS)
    batch.reset(list(range(COPIES)))
    return batch


def change(batch: JaxBatchedSimulator, **fields: Any) -> None:
    """Writes into the units' state of all copies."""
    keys, (stream, battle) = batch._carry  # type: ignore[misc]
    batch._carry = keys, (stream, battle.replace(state=battle.state.replace(**fields)))


def health(allies: list[float], enemies: list[float]) -> Any:
    return jax.numpy.tile(jax.numpy.array([*allies, *enemies], float), (COPIES, 1))


def drawn(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (rng.random(mask.shape) * mask).argmax(axis=-1)


def test_numbers_are_those_of_jaxmarl() -> None:
    batch = battles()
    seen = batch.reset(list(range(COPIES)))
    from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario  # after ours: both work

    bare = HeuristicEnemySMAX(scenario=map_name_to_scenario("3m"), max_steps=MAX_STEPS)
    assert batch.agents == tuple(bare.agents)

    @jax.jit
    @jax.vmap
    def step(stream: Any, state: Any, actions: Any) -> Any:
        stream, key = jax.random.split(stream)
        obs, state, rewards, dones, _ = bare.step_env(key, state, dict(zip(bare.agents, actions, strict=True)))
        return stream, obs, state, rewards, dones, bare.get_avail_actions(state)

    words = np.array([np.random.SeedSequence(seed).generate_state(1)[0] for seed in range(COPIES)])
    first = jax.vmap(lambda word: jax.random.split(jax.random.PRNGKey(word))[1])(words)
    stream, start = jax.numpy.unstack(jax.vmap(jax.random.split)(first), axis=1)
    obs, state = jax.jit(jax.vmap(bare.reset))(start)
    rng, running, reasons = np.random.default_rng(0), ~GO_ON, set()
    for steps in range(1, MAX_STEPS + 3):
        for row, agent in enumerate(bare.agents):
            np.testing.assert_allclose(seen.observations[running, row], obs[agent][running], atol=1e-5)
        assert seen.state is not None and seen.action_mask is not None
        np.testing.assert_allclose(seen.state[running], obs["world_state"][running], atol=1e-4)
        # Bare units are told to stop once they are dead; ours are told anything, and stop.
        actions = drawn(seen.action_mask, rng)
        ours = np.where(seen.alive, actions, rng.integers(0, 8, actions.shape))
        stream, obs, state, rewards, dones, action_mask = step(stream, state, np.where(seen.alive, actions, STOP))
        moved = batch.step(ours, ~running)
        seen, ended = moved.observation, moved.terminated | moved.truncated
        assert seen.action_mask is not None
        np.testing.assert_array_equal(ended[running], dones["__all__"][running])
        for row, agent in enumerate(bare.agents):
            np.testing.assert_allclose(moved.rewards[running, row], rewards[agent][running], atol=1e-6)
            np.testing.assert_array_equal(seen.action_mask[running, row], action_mask[agent][running])
            np.testing.assert_array_equal(seen.alive[running, row], ~np.asarray(dones[agent])[running])
        assert not (moved.terminated & moved.truncated).any()
        if (running & moved.truncated).any():
            reasons.add("truncated")
            assert steps == MAX_STEPS + 1  # as JaxMARL counts
        if (running & moved.terminated).any():
            reasons.add("terminated")
        running = running & ~ended
    assert not running.any() and reasons == {"terminated", "truncated"}


def test_the_dead_stay_dead_and_may_only_stop_and_are_rewarded() -> None:
    batch = battles()
    # Ours stand so near that they are in range, and the first one dies in this step.
    places = jax.numpy.tile(
        jax.numpy.array([[10.0, 10 + 2 * i] for i in range(3)] + [[13.0, 10 + 2 * i] for i in range(3)]), (COPIES, 1, 1)
    )
    change(batch, unit_positions=places, unit_health=health([0, 999, 999], [99, 99, 99]))
    shoot = np.tile([STOP, 5, 5], (COPIES, 1))
    seen, rewards, terminated, _, _ = batch.step(shoot, GO_ON)
    rewarded = False
    for _ in range(4):
        assert not terminated.any()
        np.testing.assert_array_equal(seen.alive, np.tile([False, True, True], (COPIES, 1)))
        assert seen.action_mask is not None
        np.testing.assert_array_equal(np.flatnonzero(seen.action_mask[0, 0]), [STOP])
        assert seen.action_mask[0, 1, :STOP].all() and seen.action_mask[0, 1, STOP + 1 :].any()
        np.testing.assert_array_equal(rewards[:, 0], rewards[:, 1])
        rewarded = rewarded or (rewards[:, 0] > 0).all()
        seen, rewards, terminated, _, _ = batch.step(shoot, GO_ON)
    assert rewarded
    assert batch.step(shoot, ~GO_ON).observation.alive.all()  # a new episode


@pytest.mark.parametrize("steps_before", [0, MAX_STEPS])
@pytest.mark.parametrize(
    ("allies", "enemies", "terminated", "win"),
    [
        ([9, 0, 0], [0, 0, 0], True, 1),
        ([0, 0, 0], [0, 0, 9], True, 0),
        ([0, 0, 0], [0, 0, 0], True, 0),  # a draw earns no bonus either
        ([9, 9, 9], [9, 9, 9], False, 0),
    ],
)
def test_ends(allies: list[float], enemies: list[float], terminated: bool, win: float, steps_before: int) -> None:
    batch = battles()
    change(batch, unit_health=health(allies, enemies), step=jax.numpy.full(COPIES, steps_before, "int32"))
    moved = batch.step(STAND, GO_ON)
    np.testing.assert_array_equal(moved.terminated, [terminated] * COPIES)
    np.testing.assert_array_equal(moved.truncated, [not terminated and steps_before == MAX_STEPS] * COPIES)
    assert moved.wins is not None
    np.testing.assert_array_equal(moved.wins, [win] * COPIES)
    np.testing.assert_array_equal(moved.rewards, np.full((COPIES, 3), float(win)))


def test_an_environment_is_a_copy_and_its_team_wins() -> None:
    """Alone and in a batch, one episode; enemies that do not shoot are beaten by whoever shoots at all in range."""
    options = {"enemy_shoots": False, "won_battle_bonus": 3.0, "render_mode": "rgb_array"}
    env = make_joint_env("smax/3m", options)
    batch = make_smax_batch("3m", 2, **options)  # type: ignore[arg-type]
    observation, _ = env.reset(seed=5)
    seen = batch.reset([4, 5])
    total, terminated, info = 0.0, False, {}
    before = env.render()
    while not terminated:
        np.testing.assert_array_equal(
            observation["observations"][:, : seen.observations.shape[2]], seen.observations[1]
        )
        mask = observation["action_mask"]
        in_range = mask[:, STOP + 1 :].any(axis=1)
        actions = np.where(in_range, STOP + 1 + mask[:, STOP + 1 :].argmax(axis=1), 1)  # shoot, or go to the right
        observation, reward, terminated, truncated, info = env.step(actions)
        seen = batch.step(np.stack([actions, actions]), np.zeros(2, np.bool_)).observation
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
def test_wrong_values_are_refused(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        make_smax_batch("3m", 1, **options)


def test_all_scenarios_are_listed() -> None:
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

    assert set(TASKS) == set(MAP_NAME_TO_SCENARIO)
