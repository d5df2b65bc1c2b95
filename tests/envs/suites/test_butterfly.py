"""Tests that Butterfly's games match PettingZoo's, with downscaled image observations."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pygame")
pytest.importorskip("pymunk")

from rllib_seqmarl.envs.joint_env import JointEnv  # noqa: E402
from rllib_seqmarl.envs.suites.butterfly import make_butterfly  # noqa: E402

MODULES = {
    "pistonball": "pistonball_v6",
    "cooperative_pong": "cooperative_pong_v6",
    "knights_archers_zombies": "knights_archers_zombies_v11",
}
ORIGINAL_IMAGES = {"image_size": None, "grayscale": False, "frame_stack": 1}
MANY_ZOMBIES = {"spawn_delay": 1, "max_zombies": 40}  # enough to kill an agent soon


def package(task: str, **options: Any) -> Any:
    return importlib.import_module(f"pettingzoo.butterfly.{MODULES[task]}").parallel_env(**options)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("pistonball", {"n_pistons": 3, "max_cycles": 8, **ORIGINAL_IMAGES}),
        ("pistonball", {"n_pistons": 3, "max_cycles": 8, "continuous": False, **ORIGINAL_IMAGES}),
        ("cooperative_pong", {"ball_speed": 40, "render_ratio": 4, **ORIGINAL_IMAGES}),
        ("cooperative_pong", {"max_cycles": 8, **ORIGINAL_IMAGES}),
        ("knights_archers_zombies", MANY_ZOMBIES),
        ("knights_archers_zombies", {"obs_method": "vector-masked", "max_cycles": 8, "line_death": True}),
        ("knights_archers_zombies", {"obs_method": "image", "max_cycles": 3, **ORIGINAL_IMAGES}),
    ],
)
def test_steps_match_the_package(task: str, options: dict[str, Any]) -> None:
    ours = make_butterfly(task, **options)
    package_options = {name: value for name, value in options.items() if name not in ORIGINAL_IMAGES}
    rng = np.random.default_rng(0)
    for seed in (3, 5):
        theirs = package(task, render_mode="rgb_array", **package_options)  # new, since resets keep the spawn timer
        our, their = ours.reset(seed=seed), theirs.reset(seed=seed)
        assert_same(our[0], their[0])
        while theirs.agents:
            assert ours.agents == theirs.agents
            actions = {}
            for agent in theirs.agents:
                space = theirs.action_space(agent)
                # Actions may exceed the bounds, to which PettingZoo clips them.
                actions[agent] = rng.uniform(-2, 2, 1).astype(np.float32) if space.shape else int(rng.integers(space.n))
            our, their = ours.step(actions), theirs.step(actions)
            for our_part, their_part in zip(our[:4], their[:4], strict=True):
                assert_same(our_part, their_part)
            if options.get("obs_method", "vector") != "image" and task == "knights_archers_zombies":
                np.testing.assert_array_equal(ours.state(), theirs.state().astype(np.float32))


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for agent in ours:
        expected = np.asarray(theirs[agent])
        if expected.dtype == np.float64 and expected.ndim:
            assert ours[agent].dtype == np.float32
            expected = expected.astype(np.float32)
        np.testing.assert_array_equal(ours[agent], expected)


def random_actions(env: Any, rng: np.random.Generator) -> dict[str, Any]:
    spaces = {agent: env.action_space(agent) for agent in env.agents}
    return {
        agent: rng.uniform(-1, 1, 1).astype(np.float32) if space.shape else int(rng.integers(space.n))
        for agent, space in spaces.items()
    }


@pytest.mark.parametrize("task", ["pistonball", "cooperative_pong"])
def test_observations_do_not_depend_on_the_render_mode(task: str) -> None:
    """PettingZoo draws nothing without a render_mode, so its agents observe an empty screen."""
    blind = package(task)
    before, _ = blind.reset(seed=0)
    after = blind.step(random_actions(blind, np.random.default_rng(0)))[0]
    assert all(np.array_equal(before[agent], after[agent]) for agent in blind.agents)
    rendering, plain = (make_butterfly(task, render_mode=mode) for mode in ("rgb_array", None))
    observations = [env.reset(seed=0)[0] for env in (rendering, plain)]
    assert_same(*observations)
    after = plain.step(random_actions(plain, np.random.default_rng(0)))[0]
    assert any(not np.array_equal(observations[0][agent], after[agent]) for agent in after)
    image = rendering.render()
    assert image.dtype == np.uint8 and image.ndim == 3 and image.std() > 10
    assert plain.render() is None


@pytest.mark.parametrize(
    ("task", "options", "shape"),
    [
        ("pistonball", {}, (64, 64, 2)),
        ("cooperative_pong", {"image_size": [42, 84], "frame_stack": 4}, (42, 84, 4)),
        ("knights_archers_zombies", {"obs_method": "image", "grayscale": False}, (64, 64, 6)),
    ],
)
def test_joint_observations_are_downscaled_pixels(task: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    env = JointEnv(make_butterfly(task, **options))
    arrays, _ = env.reset(seed=0)
    n = env.layout.n_agents
    assert env.layout.image_shape == shape
    assert arrays["observations"].dtype == np.uint8 and arrays["observations"].shape == (n, np.prod(shape) + n)


def test_stacked_images_show_motion() -> None:
    """The two images of an observation are the previous and the current one."""
    env = make_butterfly("cooperative_pong")
    first, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    previous = first["paddle_0"][..., 1]
    np.testing.assert_array_equal(first["paddle_0"][..., 0], previous)
    for _ in range(3):
        image = env.step(random_actions(env, rng))[0]["paddle_0"]
        np.testing.assert_array_equal(image[..., 0], previous)
        assert not np.array_equal(image[..., 1], previous)
        previous = image[..., 1]


def test_dead_agents_leave_and_the_others_continue() -> None:
    env = make_butterfly("knights_archers_zombies", **MANY_ZOMBIES)
    joint = JointEnv(env)
    joint.reset(seed=1)
    joint.action_space.seed(1)
    over, lone_deaths = False, 0
    while not over:
        arrays, _, terminated, truncated, info = joint.step(joint.action_space.sample())
        over = terminated or truncated
        if "agent_terminateds" in info and not over:
            lone_deaths += 1
            dead = np.flatnonzero(arrays["alive"] == 0)
            assert set(np.flatnonzero(info["agent_terminateds"])) <= set(dead)
            assert all(env.possible_agents[row] not in env.agents for row in dead)
            assert not arrays["observations"][dead, : -len(env.possible_agents)].any()
    assert lone_deaths and terminated and not truncated


def test_views_are_black_for_dying_agents_and_beyond_the_edge() -> None:
    env = make_butterfly("knights_archers_zombies", obs_method="image", **ORIGINAL_IMAGES)
    observations, _ = env.reset(seed=0)
    archer = env.env.agent_map["archer_0"]
    archer.is_alive = False
    archer.rect.topleft = (100, 100)
    np.testing.assert_array_equal(env._observe(["archer_0"])["archer_0"], env.env.observe("archer_0"))
    archer.is_alive = True
    image = env._observe(["archer_0"])["archer_0"]
    np.testing.assert_array_equal(image, env.env.observe("archer_0"))
    assert image.any() and not image[:156].any() and not image[:, :156].any()


def test_zombies_spawn_at_the_same_times_in_the_second_episode() -> None:
    env = make_butterfly("knights_archers_zombies")
    episodes = []
    for _ in range(2):
        env.reset(seed=0)
        episodes.append([env.step(dict.fromkeys(env.agents, 5)) for _ in range(33)])
    for first, second in zip(*episodes, strict=True):
        assert_same(first[0], second[0])


@pytest.mark.parametrize("task", MODULES)
def test_the_time_limit_is_a_truncation(task: str) -> None:
    env = make_butterfly(task, max_cycles=2)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    env.step(random_actions(env, rng))
    _, _, terminated, truncated, infos = env.step(random_actions(env, rng))
    assert not any(terminated.values()) and all(truncated.values()) and env.agents == []
    if task == "pistonball":
        assert {info["win"] for info in infos.values()} == {0.0}


def test_pistonball_wins_at_the_left_wall() -> None:
    env = make_butterfly("pistonball", n_pistons=5)
    env.reset(seed=0)
    ball = env.env.ball
    ball.position = (env.env.wall_width + env.env.ball_radius + 3, ball.position[1] - 50)
    ball.velocity = (-200.0, 0.0)
    _, _, terminated, truncated, infos = env.step(dict.fromkeys(env.agents, np.zeros(1, np.float32)))
    assert all(terminated.values()) and not any(truncated.values())
    assert {info["win"] for info in infos.values()} == {1.0}


def test_closing_does_not_affect_other_instances() -> None:
    first, second = (make_butterfly("knights_archers_zombies", render_mode="rgb_array") for _ in range(2))
    for env in (first, second):
        env.reset(seed=0)
    image = first.render()
    second.close()
    np.testing.assert_array_equal(first.render(), image)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("pistonball", {"n_piston": 3}, "butterfly/pistonball has no option 'n_piston'. Did you mean 'n_pistons'"),
        ("pistonball", {"n_pistons": 1}, "n_pistons=1 is out of range: give an integer >= 2"),
        ("pistonball", {"ball_mass": 0}, "ball_mass=0 is out of range"),
        ("pistonball", {"image_size": (64, 121)}, "image_size=121 is out of range: give an integer from 16 to 120"),
        ("cooperative_pong", {"ball_sped": 3}, "no option 'ball_sped'. Did you mean 'ball_speed'"),
        ("cooperative_pong", {"ball_speed": -1.5}, "ball_speed=-1.5 is out of range: give a number >= 0"),
        ("cooperative_pong", {"render_mode": "human"}, "render_mode='human' is unknown. Choose one of None, rgb_array"),
        ("cooperative_pong", {"frame_stack": 0}, "frame_stack=0 is out of range"),
        ("knights_archers_zombies", {"obs_method": "vector-sequence"}, "obs_method='vector-sequence' is unknown"),
        ("knights_archers_zombies", {"num_archers": 0, "num_knights": 0}, "give 1 to 20 agents in all"),
        ("knights_archers_zombies", {"grayscale": True}, "grayscale has no effect with obs_method='vector'"),
        ("knights_archers_zombies", {"line_death": 2}, "line_death=2 is unknown. Choose one of False, True"),
    ],
)
def test_invalid_options_are_rejected(task: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_butterfly(task, **options)


def test_training_on_images(ray_cluster: None) -> None:
    from rllib_seqmarl import MATConfig

    algo = (
        MATConfig()
        .environment("butterfly/cooperative_pong", env_config={"max_cycles": 20})
        .env_runners(num_envs_per_env_runner=2)
        .training(train_batch_size_per_learner=64, num_epochs=2, minibatch_size=32)
        .debugging(seed=0)
        .build_algo()
    )
    before = algo.get_module().network.encoder.image.layers[0].weight.detach().clone()
    results = algo.train()
    after = algo.get_module().network.encoder.image.layers[0].weight
    algo.stop()
    assert results["env_runners"]["num_env_steps_sampled"] >= 64
    assert np.isfinite(results["learners"]["default_policy"]["total_loss"])
    assert not np.array_equal(before.numpy(), after.detach().numpy())
