"""The runner that writes arrays does what RLlib's own loop does: the same steps, draws, metrics and learning."""

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
    """`toys/counting` is a batched simulator: agents of two kinds, masks, deaths, ends of both kinds."""

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


def runner(made: MATConfig, cls: type[JointEnvRunner] = RolloutEnvRunner) -> Any:
    made.validate()
    torch.manual_seed(0)  # of the weights, and then of the actions
    return cls(config=made, worker_index=0, num_workers=0)


def by_env(episodes: list[SingleAgentEpisode]) -> list[dict[str, Any]]:
    """All that learning reads of episodes, in an order that both loops share."""
    found = [
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
    return sorted(found, key=lambda episode: (episode["ends"], episode["obs"]["observations"].tobytes()))


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
def test_samples_are_those_of_rllibs_loop(kind: str, options: dict[str, Any]) -> None:
    ours, theirs = runner(config(kind)), runner(config(kind), JointEnvRunner)
    for _ in range(3):
        torch.manual_seed(7)
        sampled = ours.sample(**options)
        assert isinstance(sampled, Rollout)
        torch.manual_seed(7)
        expected = theirs.sample(**options)
        assert sampled.env_steps == sum(map(len, sampled)) == sum(map(len, expected))
        assert_equal(by_env(list(sampled)), by_env(expected))
        assert [episode.is_done for episode in sampled] == [episode.is_done for episode in expected]
    assert_equal(*(reported(one.get_metrics()) for one in (ours, theirs)))


def reported(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics that do not measure time."""
    return {
        key: value.peek() if hasattr(value, "peek") else reported(value)
        for key, value in metrics.items()
        if not any(word in key for word in ("sec", "timer", "between", "env_to_module", "module_to_env"))
        and key != "sample"
    }


@pytest.mark.parametrize("kind", ENVS)
@pytest.mark.parametrize("batch_mode", ["truncate_episodes", "complete_episodes"])
def test_learning_is_that_of_rllibs_loop(kind: str, batch_mode: str) -> None:
    """The same seed gives the same curve. Rows come in another order, so that sums differ by rounding."""
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
    rollout = runner(config("batched")).sample()
    for episode in rollout:
        seen = episode.get_observations()
        assert all(np.shares_memory(seen[key], rollout.obs[key]) for key in seen)
        assert np.shares_memory(episode.get_rewards(), rollout.rewards)
    assert rollout[0] is rollout[0]
    assert len(rollout[1:3]) == 2
    with pytest.raises(IndexError):
        rollout[len(rollout)]


def test_what_was_sampled_stays_as_it_was() -> None:
    sampler = runner(config("batched"))
    first = sampler.sample()
    kept = first.obs["observations"].copy()
    sampler.sample()
    np.testing.assert_array_equal(first.obs["observations"], kept)


def collecting_callback(name: str) -> type[RLlibCallback]:
    """A user's callback that counts itself, and what it was told."""

    def called(self: Any, *, metrics_logger: Any, **told: Any) -> None:
        metrics_logger.log_value(f"calls_of_{name}", 1, reduce="lifetime_sum")
        if name == "on_episode_end":
            length = sum(map(len, told["prev_episode_chunks"])) + len(told["episode"])
            metrics_logger.log_value("my_length", length, window=1000)
            metrics_logger.log_value(
                "my_info", told["episode"].get_infos(-1)["episode_agent_returns"].sum(), window=1000
            )
        if name == "on_sample_end":
            metrics_logger.log_value("my_steps", sum(map(len, told["samples"])), reduce="lifetime_sum")

    return type("Collect", (RLlibCallback,), {name: called})


@pytest.mark.parametrize(
    "name", ["on_episode_created", "on_episode_start", "on_episode_step", "on_episode_end", "on_sample_end"]
)
def test_callbacks_are_called_as_by_rllibs_loop(name: str) -> None:
    metrics = []
    for cls in (RolloutEnvRunner, JointEnvRunner):
        sampler = runner(config("batched").callbacks(collecting_callback(name)), cls)
        for _ in range(3):
            torch.manual_seed(3)
            sampler.sample(num_timesteps=30)
        metrics.append(reported(sampler.get_metrics()))
    assert_equal(*metrics)
    assert metrics[0][f"calls_of_{name}"] > 2


LOOPS = (RolloutEnvRunner, JointEnvRunner)


def test_an_episode_keeps_its_id_over_samples() -> None:
    sampler = runner(config("batched"))
    pieces: dict[str, list[tuple[int, int, bool]]] = {}
    for _ in range(6):
        for episode in sampler.sample(num_timesteps=11):
            pieces.setdefault(episode.id_, []).append((episode.t_started, len(episode), episode.is_done))
    assert max(map(len, pieces.values())) > 1
    for parts in pieces.values():
        ends = np.cumsum([length for _, length, _ in parts]).tolist()
        assert [start for start, *_ in parts] == [0, *ends[:-1]]
        assert not any(is_done for *_, is_done in parts[:-1])


def counting_team() -> type[ParallelEnv]:
    """A team whose infos count steps, with something to set from outside; made in a function, to travel to workers."""

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
    found: list[list[Any]] = []
    made = config().environment(counting_team(), env_config=CHOICE[1])
    made.callbacks(on_sample_end=lambda *, samples, **_: found.extend(episode.get_infos() for episode in samples))
    sampler = runner(made, cls)
    for _ in range(3):
        sampler.sample(num_timesteps=28)
    assert found
    for first, *others in found:
        given = [info["agent_infos"] for info in (first, *others)]
        start = given[0].get("agent_1", {}).get("count", 0)
        assert start or given[0]["agent_0"] == {"begun": True}
        assert [infos["agent_1"]["count"] for infos in given[1:]] == [start + 1 + t for t in range(len(others))]
        assert all("agent_rewards" in info for info in others)


def test_without_readers_only_last_infos_are_kept() -> None:
    rollout = runner(config().environment(counting_team(), env_config=CHOICE[1])).sample(num_timesteps=28)
    assert rollout.infos.keys() == {(part.last - 1, part.env) for part in rollout.segments if part.is_done}
    assert rollout[0].get_infos(-1)["agent_infos"]["agent_1"]["count"] == 5


def test_returns_are_logged_as_callbacks_have_changed_them() -> None:
    def double(*, samples: Any, **_: Any) -> None:
        for episode in samples:
            episode.set_rewards(new_data=2.0 * np.asarray(episode.get_rewards()) + 1.0)

    means = []
    for cls in LOOPS:
        sampler = runner(config("batched").callbacks(on_sample_end=double), cls)
        for _ in range(3):
            torch.manual_seed(3)
            sampled = sampler.sample(num_timesteps=30)
        means.append(reported(sampler.get_metrics())["episode_return_mean"])
    assert means[0] == pytest.approx(means[1])
    assert isinstance(runner(config("batched")).sample(), Rollout) and not isinstance(sampled, Rollout)


@pytest.mark.parametrize("mode", ["vector_entry_point", "sync"])
def test_the_users_environments_are_in_reach(mode: str) -> None:
    made = config(gym_env_vectorize_mode=mode).environment(counting_team(), env_config=CHOICE[1])
    sampler = runner(made)
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


def test_a_batched_simulator_is_in_reach_and_other_processes_are_not() -> None:
    assert runner(config("batched")).foreach_env(lambda batch: batch.num_envs) == [4]
    sampler = runner(config())
    sampler.env = SimpleNamespace(unwrapped=SimpleNamespace())  # as gymnasium's AsyncVectorEnv, without `envs`
    with pytest.raises(TypeError, match="gym_env_vectorize_mode.*'sync'"):
        sampler.foreach_env(print)


@pytest.mark.parametrize("cls", LOOPS)
def test_fractions_of_steps_and_episodes_are_rounded_up(cls: type[JointEnvRunner]) -> None:
    sampler = runner(config(), cls)
    assert sum(map(len, sampler.sample(num_timesteps=20.5))) == 24
    assert len(sampler.sample(num_episodes=2.5)) == 3
    assert sum(map(len, sampler.sample(num_timesteps=0.0))) == 0


def test_callback_functions_count_as_callbacks() -> None:
    calls: list[int] = []
    made = config().callbacks(on_episode_end=lambda *, episode, **_: calls.append(len(episode)))
    runner(made).sample(num_timesteps=40)
    assert calls == [5] * 8


def test_two_loops_take_turns_with_fresh_episodes() -> None:
    sampler = runner(config("batched"))
    sampler.sample(num_timesteps=30)
    drawn = sampler.sample(num_timesteps=30, random_actions=True)
    assert all(episode.t_started == 0 for episode in drawn)
    again = sampler.sample(num_timesteps=30)
    assert isinstance(again, Rollout)
    assert all(episode.t_started == 0 for episode in again)


def test_a_failed_environment_is_made_anew_and_what_was_sampled_is_kept() -> None:
    def failing() -> Callable[..., Any]:
        fails = [8]  # at this step of the first environment, once

        def create(**options: Any) -> Any:
            from rllib_seqmarl.envs.suites.coordination import DistinctChoice

            class Failing(DistinctChoice):
                def step(self, actions: dict[str, int]) -> Any:
                    fails[0] -= 1
                    if fails[0] == 0:
                        raise RuntimeError("the simulator crashed")
                    return super().step(actions)

            return Failing(**options)

        return create

    made = config().environment(failing(), env_config=CHOICE[1])
    made.env_runners(num_envs_per_env_runner=2).fault_tolerance(restart_failed_sub_environments=True)
    rollout = runner(made).sample(num_timesteps=30)
    assert rollout.env_steps == 30
    lengths = [len(episode) for episode in rollout]
    assert lengths.count(3) >= 2  # two environments had made three steps each when one of them failed
    cut = [episode for episode in rollout if len(episode) == 3 and not episode.is_done]
    assert all(np.isfinite(episode.get_extra_model_outputs(Columns.VF_PREDS)).all() for episode in cut)


def test_a_failed_environment_ends_sampling_unless_it_may_be_made_anew() -> None:
    def create(**options: Any) -> Any:
        from rllib_seqmarl.envs.suites.coordination import DistinctChoice

        class Failing(DistinctChoice):
            def step(self, actions: dict[str, int]) -> Any:
                raise RuntimeError("the simulator crashed")

        return Failing(**options)

    with pytest.raises(RuntimeError, match="stepping the environments failed: the simulator crashed"):
        runner(config().environment(create, env_config=CHOICE[1])).sample()
