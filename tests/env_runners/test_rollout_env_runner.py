"""The rollout env runner matches RLlib's own loop: the same steps, random numbers, metrics and learning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pettingzoo import ParallelEnv
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from toy_batch import ToyBatch

from rllib_seqmarl import MATConfig
from rllib_seqmarl.env_runners.joint_env_runner import JointEnvRunner
from rllib_seqmarl.env_runners.rollout_env_runner import RolloutEnvRunner
from rllib_seqmarl.envs import catalog
from rllib_seqmarl.envs.single_team import SingleTeam
from rllib_seqmarl.envs.suite import Suite
from rllib_seqmarl.envs.suites.coordination import DistinctChoice
from rllib_seqmarl.rollouts import Rollout

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register `toys/counting`, a batched simulator with two kinds of agents, masks, deaths and both kinds of ends."""

    def make_batch(task: str, num_envs: int, *, continuous: bool = False, spoil: Any = None) -> ToyBatch:
        return ToyBatch(num_envs, continuous=continuous, spoil=spoil)

    def make(task: str, *, continuous: bool = False, spoil: Any = None) -> SingleTeam:
        return SingleTeam(ToyBatch(1, continuous=continuous, spoil=spoil))

    suite = Suite("toys", {"counting": "Counts."}, make, make_batch)
    monkeypatch.setitem(catalog.CATALOG, "toys/counting", catalog.EnvEntry(suite, "counting"))


CHOICE = "coordination/distinct_choice", {"n_agents": 3, "max_cycles": 5}
ENVS: dict[str, tuple[str, dict[str, Any]]] = {
    "single": CHOICE,
    "batched": ("toys/counting", {}),
    "continuous": ("toys/counting", {"continuous": True}),
}


def config(kind: str = "single", **options: Any) -> MATConfig:
    name, env_config = ENVS[kind]
    return (
        MATConfig()
        .environment(name, env_config=env_config)
        .env_runners(num_envs_per_env_runner=4, **options)
        .training(train_batch_size_per_learner=40, num_epochs=2, lr=1e-3)
        .network(embed_dim=16)
        .debugging(seed=1)
    )


def make_runner(config: MATConfig, cls: type[JointEnvRunner] = RolloutEnvRunner) -> Any:
    config.validate()
    torch.manual_seed(0)  # for the weights, then the actions
    return cls(config=config, worker_index=0, num_workers=0)


def sorted_data(episodes: list[SingleAgentEpisode]) -> list[dict[str, Any]]:
    """All data of episodes that learning uses, in an order independent of the loop."""
    data = [
        {
            "obs": episode.get_observations(),
            "actions": episode.get_actions(),
            "rewards": episode.get_rewards(),
            "outputs": {key: episode.get_extra_model_outputs(key) for key in (Columns.ACTION_LOGP, Columns.VF_PREDS)},
            "ends": (episode.is_terminated, episode.is_truncated, episode.t_started, len(episode)),
            "infos": episode.get_infos()[1:],
        }
        for episode in episodes
    ]
    return sorted(data, key=lambda episode: (episode["ends"], episode["obs"]["observations"].tobytes()))


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, Mapping):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    elif isinstance(one, str):
        assert one == other
    else:
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ENVS)
@pytest.mark.parametrize("options", [{}, {"num_timesteps": 37}, {"num_episodes": 7}, {"explore": False}])
def test_samples_match_rllibs_loop(kind: str, options: dict[str, Any]) -> None:
    ours, theirs = make_runner(config(kind)), make_runner(config(kind), JointEnvRunner)
    for _ in range(3):
        torch.manual_seed(7)
        sampled = ours.sample(**options)
        assert isinstance(sampled, Rollout)
        torch.manual_seed(7)
        expected = theirs.sample(**options)
        assert sampled.env_steps == sum(map(len, sampled)) == sum(map(len, expected))
        assert_equal(sorted_data(list(sampled)), sorted_data(expected))
        assert [episode.is_done for episode in sampled] == [episode.is_done for episode in expected]
    assert_equal(*(without_times(sampler.get_metrics()) for sampler in (ours, theirs)))


def without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics that do not measure time."""
    return {
        key: value.peek() if hasattr(value, "peek") else without_times(value)
        for key, value in metrics.items()
        if not any(word in key for word in ("sec", "timer", "between", "env_to_module", "module_to_env"))
        and key != "sample"
    }


@pytest.mark.parametrize("kind", ENVS)
@pytest.mark.parametrize("batch_mode", ["truncate_episodes", "complete_episodes"])
def test_learning_matches_rllibs_loop(kind: str, batch_mode: str) -> None:
    """The same seed gives the same learning curve, up to rounding, because rows are summed in another order."""
    curves = []
    for cls in (RolloutEnvRunner, JointEnvRunner):
        algo = config(kind, env_runner_cls=cls, batch_mode=batch_mode).build_algo()
        assert type(algo.env_runner) is cls
        results = [algo.train() for _ in range(4)]
        learned = [
            {key: result["learners"][DEFAULT_MODULE_ID][key] for key in ("policy_loss", "vf_loss", "entropy")}
            for result in results
        ]
        sampled = [
            {key: result["env_runners"][key] for key in ("episode_return_mean", "num_env_steps_sampled_lifetime")}
            for result in results
        ]
        curves.append((sampled, learned))
        algo.stop()
    assert_equal(curves[0][0], curves[1][0])
    for ours, theirs in zip(curves[0][1], curves[1][1], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_episodes_are_views() -> None:
    rollout = make_runner(config("batched")).sample()
    for episode in rollout:
        observations = episode.get_observations()
        assert all(np.shares_memory(array, rollout.obs[key]) for key, array in observations.items())
        assert np.shares_memory(episode.get_rewards(), rollout.rewards)
    assert rollout[0] is rollout[0]
    assert len(rollout[1:3]) == 2
    with pytest.raises(IndexError):
        rollout[len(rollout)]


def test_sampling_does_not_change_earlier_rollouts() -> None:
    sampler = make_runner(config("batched"))
    first = sampler.sample()
    original = first.obs["observations"].copy()
    sampler.sample()
    np.testing.assert_array_equal(first.obs["observations"], original)


def make_logging_callback(name: str) -> type[RLlibCallback]:
    """Create a user callback that logs its calls and arguments."""

    def log_call(self: Any, *, metrics_logger: Any, **arguments: Any) -> None:
        metrics_logger.log_value(f"calls_of_{name}", 1, reduce="lifetime_sum")
        if name == "on_episode_end":
            episode = arguments["episode"]
            length = sum(map(len, arguments["prev_episode_chunks"])) + len(episode)
            metrics_logger.log_value("my_length", length, window=1000)
            metrics_logger.log_value("my_info", episode.get_infos(-1)["episode_agent_returns"].sum(), window=1000)
        if name == "on_sample_end":
            metrics_logger.log_value("my_steps", sum(map(len, arguments["samples"])), reduce="lifetime_sum")

    return type("LogCalls", (RLlibCallback,), {name: log_call})


@pytest.mark.parametrize(
    "name", ["on_episode_created", "on_episode_start", "on_episode_step", "on_episode_end", "on_sample_end"]
)
def test_callbacks_are_called_as_in_rllibs_loop(name: str) -> None:
    metrics = []
    for cls in (RolloutEnvRunner, JointEnvRunner):
        sampler = make_runner(config("batched").callbacks(make_logging_callback(name)), cls)
        for _ in range(3):
            torch.manual_seed(3)
            sampler.sample(num_timesteps=30)
        metrics.append(without_times(sampler.get_metrics()))
    assert_equal(*metrics)
    assert metrics[0][f"calls_of_{name}"] > 2


LOOPS = (RolloutEnvRunner, JointEnvRunner)


def test_an_episode_keeps_its_id_across_samples() -> None:
    sampler = make_runner(config("batched"))
    segments_by_id: dict[str, list[tuple[int, int, bool]]] = {}
    for _ in range(6):
        for episode in sampler.sample(num_timesteps=11):
            segments_by_id.setdefault(episode.id_, []).append((episode.t_started, len(episode), episode.is_done))
    assert max(map(len, segments_by_id.values())) > 1
    for segments in segments_by_id.values():
        ends = np.cumsum([length for _, length, _ in segments]).tolist()
        assert [start for start, *_ in segments] == [0, *ends[:-1]]
        assert not any(is_done for *_, is_done in segments[:-1])


def counting_team() -> type[ParallelEnv]:
    """Create a team whose infos count steps and whose bonus can be set; a local class, to be pickled for workers."""

    class Counting(DistinctChoice):
        bonus = 0.0

        def reset(self, **options: Any) -> Any:
            observations, _ = super().reset(**options)
            self.count = 0
            return observations, {agent: {"begun": True} for agent in self.agents}

        def step(self, actions: dict[str, int]) -> Any:
            observations, rewards, terminated, truncated, infos = super().step(actions)
            self.count += 1
            for agent in infos:
                rewards[agent] += self.bonus
            infos["agent_1"]["count"] = self.count
            return observations, rewards, terminated, truncated, infos

        def set_bonus(self, bonus: float) -> None:
            self.bonus = bonus

    return Counting


@pytest.mark.parametrize("cls", LOOPS)
def test_callbacks_read_the_environments_infos(cls: type[JointEnvRunner]) -> None:
    collected: list[list[Any]] = []
    counting = config().environment(counting_team(), env_config=CHOICE[1])
    counting.callbacks(on_sample_end=lambda *, samples, **_: collected.extend(e.get_infos() for e in samples))
    sampler = make_runner(counting, cls)
    for _ in range(3):
        sampler.sample(num_timesteps=28)
    assert collected
    for first, *others in collected:
        agent_infos = [info["agent_infos"] for info in (first, *others)]
        start = agent_infos[0].get("agent_1", {}).get("count", 0)
        assert start or agent_infos[0]["agent_0"] == {"begun": True}
        assert [infos["agent_1"]["count"] for infos in agent_infos[1:]] == [start + 1 + t for t in range(len(others))]
        assert all("agent_rewards" in info for info in others)


def test_without_callbacks_only_last_infos_are_kept() -> None:
    rollout = make_runner(config().environment(counting_team(), env_config=CHOICE[1])).sample(num_timesteps=28)
    assert rollout.infos.keys() == {(segment.last - 1, segment.env) for segment in rollout.segments if segment.is_done}
    assert rollout[0].get_infos(-1)["agent_infos"]["agent_1"]["count"] == 5


def test_logged_returns_include_callbacks_reward_changes() -> None:
    def double(*, samples: Any, **_: Any) -> None:
        for episode in samples:
            episode.set_rewards(new_data=2.0 * np.asarray(episode.get_rewards()) + 1.0)

    means = []
    for cls in LOOPS:
        sampler = make_runner(config("batched").callbacks(on_sample_end=double), cls)
        for _ in range(3):
            torch.manual_seed(3)
            sampled = sampler.sample(num_timesteps=30)
        means.append(without_times(sampler.get_metrics())["episode_return_mean"])
    assert means[0] == pytest.approx(means[1])
    assert isinstance(make_runner(config("batched")).sample(), Rollout) and not isinstance(sampled, Rollout)


@pytest.mark.parametrize("mode", ["vector_entry_point", "sync"])
def test_foreach_env_reaches_the_users_environments(mode: str) -> None:
    sampler = make_runner(config(gym_env_vectorize_mode=mode).environment(counting_team(), env_config=CHOICE[1]))
    assert sampler.foreach_env(lambda env: type(env).__name__) == ["Counting"] * 4
    indices = sampler.foreach_env_with_context(lambda env, context: (context.vector_index, env.set_bonus(100.0)))
    assert [index for index, _ in indices] == [0, 1, 2, 3]
    assert min(episode.get_return() for episode in sampler.sample(num_episodes=4)) >= 500.0
    vector = sampler.env.unwrapped
    for env in vector.envs:
        env.get_wrapper_attr("set_bonus")(200.0)
    assert vector.call("bonus") == (200.0,) * 4
    for env in vector.envs:
        env.set_wrapper_attr("bonus", 300.0)
    assert sampler.foreach_env(lambda env: env.bonus) == [300.0] * 4
    assert not hasattr(vector.envs[0], "no_such_attribute")


def test_foreach_env_reaches_batched_simulators_but_not_subprocesses() -> None:
    assert make_runner(config("batched")).foreach_env(lambda batch: batch.num_envs) == [4]
    sampler = make_runner(config())
    sampler.env = SimpleNamespace(unwrapped=SimpleNamespace())  # no `envs`, like gymnasium's AsyncVectorEnv
    with pytest.raises(TypeError, match="gym_env_vectorize_mode.*'sync'"):
        sampler.foreach_env(print)


@pytest.mark.parametrize("cls", LOOPS)
def test_fractions_of_steps_and_episodes_are_rounded_up(cls: type[JointEnvRunner]) -> None:
    sampler = make_runner(config(), cls)
    assert sum(map(len, sampler.sample(num_timesteps=20.5))) == 24
    assert len(sampler.sample(num_episodes=2.5)) == 3
    assert sum(map(len, sampler.sample(num_timesteps=0.0))) == 0


def test_callback_functions_are_called() -> None:
    lengths: list[int] = []
    counting = config().callbacks(on_episode_end=lambda *, episode, **_: lengths.append(len(episode)))
    make_runner(counting).sample(num_timesteps=40)
    assert lengths == [5] * 8


def test_switching_loops_starts_new_episodes() -> None:
    sampler = make_runner(config("batched"))
    sampler.sample(num_timesteps=30)
    random_episodes = sampler.sample(num_timesteps=30, random_actions=True)
    assert all(episode.t_started == 0 for episode in random_episodes)
    rollout = sampler.sample(num_timesteps=30)
    assert isinstance(rollout, Rollout)
    assert all(episode.t_started == 0 for episode in rollout)


def test_failed_environments_are_recreated_and_earlier_steps_are_kept() -> None:
    def make_creator() -> Callable[..., Any]:
        steps_to_failure = [8]  # counted over all environments; it fails once

        def create(**options: Any) -> Any:
            from rllib_seqmarl.envs.suites.coordination import DistinctChoice

            class Failing(DistinctChoice):
                def step(self, actions: dict[str, int]) -> Any:
                    steps_to_failure[0] -= 1
                    if steps_to_failure[0] == 0:
                        raise RuntimeError("the simulator crashed")
                    return super().step(actions)

            return Failing(**options)

        return create

    failing = config().environment(make_creator(), env_config=CHOICE[1])
    failing.env_runners(num_envs_per_env_runner=2).fault_tolerance(restart_failed_sub_environments=True)
    rollout = make_runner(failing).sample(num_timesteps=30)
    assert rollout.env_steps == 30
    lengths = [len(episode) for episode in rollout]
    assert lengths.count(3) >= 2  # both environments had made three steps when one of them failed
    cut = [episode for episode in rollout if len(episode) == 3 and not episode.is_done]
    assert all(np.isfinite(episode.get_extra_model_outputs(Columns.VF_PREDS)).all() for episode in cut)


def test_a_failed_environment_ends_sampling_without_restart_failed_sub_environments() -> None:
    def create(**options: Any) -> Any:
        from rllib_seqmarl.envs.suites.coordination import DistinctChoice

        class Failing(DistinctChoice):
            def step(self, actions: dict[str, int]) -> Any:
                raise RuntimeError("the simulator crashed")

        return Failing(**options)

    with pytest.raises(RuntimeError, match="stepping the environments failed: the simulator crashed"):
        make_runner(config().environment(create, env_config=CHOICE[1])).sample()
