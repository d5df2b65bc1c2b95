"""Tests that Jumanji's teams match Jumanji, and that terminations and truncations are distinguished."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("jumanji")

import jax

from rllib_seqmarl.envs.batch_env import JointBatchEnv
from rllib_seqmarl.envs.suites.jax_batch import JaxBatchedSimulator
from rllib_seqmarl.envs.suites.jumanji import (
    SUITES,
    make_cleaner_batch,
    make_connector_batch,
    make_lbf_batch,
    make_rware_batch,
)

COPIES = 8
NO_RESET = np.zeros(1, np.bool_)


def bare_rware(time_limit: int) -> Any:
    from jumanji.environments.routing.robot_warehouse import RobotWarehouse
    from jumanji.environments.routing.robot_warehouse.generator import RandomGenerator

    return RobotWarehouse(RandomGenerator(1, 3, 8, 6, 1, 3), time_limit)


def bare_lbf(time_limit: int) -> Any:
    from jumanji.environments.routing.lbf import LevelBasedForaging
    from jumanji.environments.routing.lbf.generator import RandomGenerator

    return LevelBasedForaging(RandomGenerator(6, 3, 1, 2, 2, False), time_limit=time_limit)


def bare_connector(time_limit: int) -> Any:
    from jumanji.environments.routing.connector import Connector
    from jumanji.environments.routing.connector.generator import RandomWalkGenerator

    return Connector(RandomWalkGenerator(5, 3), time_limit=time_limit)


def bare_cleaner(time_limit: int) -> Any:
    from jumanji.environments.routing.cleaner import Cleaner
    from jumanji.environments.routing.cleaner.generator import RandomGenerator

    return Cleaner(RandomGenerator(3, 3, 2), time_limit)


class Case(NamedTuple):
    make_batch: Callable[..., JaxBatchedSimulator]
    task: str
    bare: Callable[[int], Any]
    time_limit: int
    won: Callable[[Any], Any] | None  # function of the bare environment's state
    views: Callable[[Any], np.ndarray] | None  # function of its observation; None if the adapter computes layers


CASES = {
    "rware": Case(make_rware_batch, "tiny-6ag-hard", bare_rware, 12, None, lambda obs: obs.agents_view),
    "lbf": Case(
        make_lbf_batch,
        "2s-6x6-3p-1f",
        bare_lbf,
        25,
        lambda state: state.food_items.eaten.all(axis=1),
        lambda obs: obs.agents_view,
    ),
    "connector": Case(
        make_connector_batch, "con-5x5x3a", bare_connector, 7, lambda state: state.agents.connected.all(axis=1), None
    ),
    "cleaner": Case(
        make_cleaner_batch, "clean-3x3x2a", bare_cleaner, 8, lambda state: (state.grid != 0).all(axis=(1, 2)), None
    ),
}


def keys_of(seeds: range) -> Any:
    """Return the keys of the first episodes of copies with these seeds."""
    words = np.array([np.random.SeedSequence(seed).generate_state(1)[0] for seed in seeds])
    return jax.vmap(lambda word: jax.random.split(jax.random.PRNGKey(word))[1])(words)


def sample_actions(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sample legal actions."""
    return (rng.random(mask.shape) * mask).argmax(axis=-1)


@pytest.mark.parametrize("suite", CASES)
def test_steps_match_jumanji(suite: str) -> None:
    make_batch, task, make_bare, time_limit, won, views = CASES[suite]
    batch, bare = make_batch(task, COPIES, time_limit=time_limit), make_bare(time_limit)
    assert len(batch.agents) == bare.num_agents
    step = jax.jit(jax.vmap(bare.step))
    state, timestep = jax.jit(jax.vmap(bare.reset))(keys_of(range(COPIES)))
    obs = batch.reset(list(range(COPIES)))
    rng, running, ends = np.random.default_rng(0), np.ones(COPIES, np.bool_), set()
    for steps in range(1, time_limit + 1):
        np.testing.assert_array_equal(obs.action_mask[running], timestep.observation.action_mask[running])
        if views is not None:
            np.testing.assert_array_equal(obs.observations[running], views(timestep.observation)[running])
        assert obs.alive.all()
        actions = sample_actions(obs.action_mask, rng)
        state, timestep = step(state, actions)
        result = batch.step(actions, ~running)
        obs, ended = result.observation, result.terminated | result.truncated
        rewards = np.broadcast_to(np.reshape(timestep.reward, (COPIES, -1)), result.rewards.shape)
        np.testing.assert_array_equal(result.rewards[running], rewards[running])
        np.testing.assert_array_equal(ended[running], (timestep.step_type == 2)[running])
        assert not (result.terminated & result.truncated).any()
        assert not result.truncated[running].any() or steps == time_limit
        if won is None:
            assert result.wins is None
        else:
            np.testing.assert_array_equal(result.wins[running], np.asarray(won(state), np.float32)[running])
        if steps < time_limit and (running & result.terminated).any():
            ends.add("terminated early")
        if (running & result.truncated).any():
            ends.add("truncated")
        running = running & ~ended
    assert ends == {"terminated early", "truncated"}


def small_field() -> JaxBatchedSimulator:
    return make_lbf_batch("2s-6x6-3p-1f", COPIES, time_limit=25)


def test_eating_all_food_wins_and_terminates_even_at_the_time_limit() -> None:
    batch = small_field()
    batch.reset(list(range(COPIES)))
    keys, (state, obs) = batch._carry  # type: ignore[misc]
    # The first agent is next to the only food; in the first two copies it is strong enough, in the others too weak.
    state.agents.position = state.agents.position.at[:, 0].set(state.food_items.position[:, 0] + np.array([0, 1]))
    state.agents.level = state.agents.level.at[:2, 0].set(9).at[2:, 0].set(0)
    state.step_count = state.step_count.at[1:3].set(24)
    batch._carry = keys, (state, obs)
    _, rewards, terminated, truncated, wins = batch.step(np.tile([5, 0, 0], (COPIES, 1)), np.zeros(COPIES, np.bool_))
    np.testing.assert_array_equal(rewards[:3], [[1, 0, 0], [1, 0, 0], [0, 0, 0]])  # normalised to a sum of 1
    np.testing.assert_array_equal(terminated[:4], [True, True, False, False])
    np.testing.assert_array_equal(truncated[:4], [False, False, True, False])
    assert wins is not None
    np.testing.assert_array_equal(wins[:4], [1, 1, 0, 0])


def test_summed_foraging_rewards_equal_the_team_return() -> None:
    env = JointBatchEnv(small_field(), team_reward="sum")
    rng, returns, ended = np.random.default_rng(0), np.zeros(COPIES), set()
    observation, _ = env.reset(seed=0)
    for _ in range(200):
        observation, rewards, terminated, truncated, info = env.step(sample_actions(observation["action_mask"], rng))
        returns += rewards
        over = terminated | truncated
        if over.any():
            np.testing.assert_allclose(returns[over], info["win"][over], atol=1e-6)
            ended |= set(returns[over].round(3))
        returns[over] = 0
    assert ended == {0.0, 1.0}


def test_connecting_all_agents_wins_and_being_blocked_does_not() -> None:
    batch = make_connector_batch("con-5x5x3a", COPIES, time_limit=7)
    rng, obs = np.random.default_rng(1), batch.reset(list(range(COPIES)))
    reset_mask, results, returns = np.zeros(COPIES, np.bool_), set(), np.zeros((COPIES, 3))
    for _ in range(400):
        result = batch.step(sample_actions(obs.action_mask, rng), reset_mask)
        returns = np.where(reset_mask[:, None], 0, returns) + result.rewards
        obs, reset_mask = result.observation, result.terminated | result.truncated
        for copy in np.flatnonzero(reset_mask):
            connected = returns[copy] > 0.5  # connecting gives 1, less 0.03 per step
            assert result.wins[copy] == connected.all()
            assert result.terminated[copy] or not connected.all()
            results.add(float(result.wins[copy]))
    assert results == {0.0, 1.0}


def test_connector_observation_layers() -> None:
    batch = make_connector_batch("con-5x5x3a", COPIES, time_limit=7)
    obs = batch.reset(list(range(3, 3 + COPIES)))
    for _ in range(3):
        obs = batch.step(
            sample_actions(obs.action_mask, np.random.default_rng(0)), np.zeros(COPIES, np.bool_)
        ).observation
    grid = np.asarray(batch._carry[1][0].grid[0])  # type: ignore[index]
    views = obs.observations[0].reshape(3, 5, 5, 5)
    for observer in range(3):
        for cell in np.ndindex(5, 5):
            expected = [0.0] * 5
            if grid[cell]:
                agent, kind = divmod(int(grid[cell]) - 1, 3)  # kind 0: path, 1: head, 2: target
                number = 1 + (agent - observer) % 3
                if kind == 0:
                    expected[2] = 1
                else:
                    expected[kind - 1] = number / 3
                    expected[2 + kind] = float(agent == observer)
            np.testing.assert_allclose(views[observer][cell], expected, rtol=1e-6)
    assert obs.state is not None
    np.testing.assert_array_equal(obs.state[0].reshape(5, 5, 3), views[0, :, :, :3])


def test_cleaner_observation_layers_and_win() -> None:
    batch = make_cleaner_batch("clean-3x3x2a", 1, time_limit=500, penalty_per_timestep=0.25)
    rng, obs = np.random.default_rng(0), batch.reset([0])
    total, result = 0.0, None
    while result is None or not result.terminated[0]:
        state = batch._carry[1][0]  # type: ignore[index]
        grid, places = np.asarray(state.grid[0]), np.asarray(state.agents_locations[0])
        views = obs.observations.reshape(2, 3, 3, 4)
        for agent in range(2):
            np.testing.assert_array_equal(views[agent, :, :, 0], grid == 0)
            np.testing.assert_array_equal(views[agent, :, :, 1], grid == 2)
            counts = np.zeros((3, 3))
            np.add.at(counts, tuple(places.T), 1)
            np.testing.assert_array_equal(views[agent, :, :, 2], counts)
            np.testing.assert_array_equal(np.argwhere(views[agent, :, :, 3]), places[agent : agent + 1])
        assert obs.state is not None
        np.testing.assert_array_equal(obs.state.reshape(3, 3, 3), views[0, :, :, :3])
        dirty = (grid == 0).sum()
        result = batch.step(sample_actions(obs.action_mask, rng), NO_RESET)
        obs = result.observation
        assert result.wins is not None
        cleaned = dirty - (np.asarray(batch._carry[1][0].grid[0]) == 0).sum()  # type: ignore[index]
        np.testing.assert_array_equal(result.rewards, [[cleaned - 0.25] * 2])
        total += cleaned
    assert result.wins[0] == 1 and not result.truncated[0]
    assert not obs.observations.reshape(2, 3, 3, 4)[:, :, :, 0].any()  # the final maze, not the next one


def test_foraging_state_is_the_joint_observation() -> None:
    batch = small_field()
    obs = batch.reset(list(range(COPIES)))
    assert batch.state_dim == 3 * 12  # 3 agents x (x, y and level of 3 agents and one piece of food)
    np.testing.assert_array_equal(obs.state, obs.observations.reshape(COPIES, -1))


@pytest.mark.parametrize(
    ("suite", "task", "sizes"),
    [  # Mava's configurations
        ("jumanji-rware", "tiny-4ag-easy", (1, 3, 4, 8)),
        ("jumanji-rware", "xlarge-4ag-hard", (4, 5, 4, 2)),
        ("jumanji-rware", "medium-6ag", (2, 5, 6, 6)),
        ("jumanji-lbf", "2s-8x8-2p-2f-coop", (8, 2, 2, 2, True)),
        ("jumanji-lbf", "15x15-4p-5f", (15, 15, 4, 5, False)),
        ("jumanji-connector", "con-15x15x23a", (15, 23)),
        ("jumanji-cleaner", "clean-10x10x3a", (10, 10, 3)),
    ],
)
def test_task_names_are_parsed(suite: str, task: str, sizes: tuple[Any, ...]) -> None:
    from rllib_seqmarl.envs.suites import jumanji

    parse = {"jumanji-rware": jumanji.parse_rware, "jumanji-lbf": jumanji.parse_lbf}
    parse |= {"jumanji-connector": jumanji.parse_connector, "jumanji-cleaner": jumanji.parse_cleaner}
    parsed = parse[suite](task)
    assert parsed is not None and tuple(parsed.values()) == sizes


@pytest.mark.parametrize(
    ("suite", "task"),
    [
        ("jumanji-rware", "tiny-20ag"),
        ("jumanji-rware", "tiny-16ag-easy"),  # all shelves would be requested
        ("jumanji-lbf", "9s-8x8-2p-2f"),
        ("jumanji-lbf", "8x9-2p-2f"),
        ("jumanji-lbf", "8x8-2p-7f"),
        ("jumanji-connector", "con-5x5x7a"),
        ("jumanji-cleaner", "clean-2x2x1a"),
    ],
)
def test_infeasible_tasks_are_unknown(suite: str, task: str) -> None:
    assert not next(one for one in SUITES if one.name == suite).knows(task)


@pytest.mark.parametrize(
    ("make_batch", "task", "options"),
    [
        (make_rware_batch, "tiny-2ag", {"time_limit": 0}),
        (make_rware_batch, "tiny-2ag", {"sensor_range": 0}),
        (make_lbf_batch, "8x8-2p-2f", {"time_limit": 2.5}),
        (make_lbf_batch, "8x8-2p-2f", {"max_agent_level": 1}),
        (make_lbf_batch, "8x8-2p-2f", {"normalize_reward": "yes"}),
        (make_lbf_batch, "8x8-2p-2f", {"penalty": -1}),
        (make_connector_batch, "con-5x5x3a", {"time_limit": 0}),
        (make_connector_batch, "con-5x5x3a", {"connected_reward": "1"}),
        (make_connector_batch, "con-5x5x3a", {"timestep_reward": None}),
        (make_cleaner_batch, "clean-3x3x2a", {"time_limit": 0}),
        (make_cleaner_batch, "clean-3x3x2a", {"penalty_per_timestep": -0.5}),
        (make_cleaner_batch, "clean-3x3x2a", {"render_mode": "human"}),
    ],
)
def test_invalid_values_are_rejected(
    make_batch: Callable[..., JaxBatchedSimulator], task: str, options: dict[str, Any]
) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        make_batch(task, 1, **options)


@pytest.mark.parametrize("suite", CASES)
def test_rendering(suite: str) -> None:
    make_batch, task, _, time_limit, _, _ = CASES[suite]
    batch = make_batch(task, COPIES, time_limit=time_limit, render_mode="rgb_array")
    obs = batch.reset(list(range(COPIES)))
    before = batch.render()
    for _ in range(2):
        obs = batch.step(
            sample_actions(obs.action_mask, np.random.default_rng(0)), np.zeros(COPIES, np.bool_)
        ).observation
    after = batch.render()
    assert before.dtype == np.uint8 and before.ndim == 3 and before.shape[2] == 3
    assert before.shape == after.shape and (before != after).any()
