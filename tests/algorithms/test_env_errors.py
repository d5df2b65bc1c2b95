"""Errors of environments and user code end training with one clear message, on any worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ray import tune
from ray.rllib.connectors.connector_v2 import ConnectorV2

from rllib_seqmarl import MATConfig
from rllib_seqmarl.cli import main
from rllib_seqmarl.env_runners.env_errors import EnvErrorBoard, UserCodeError
from rllib_seqmarl.env_runners.rollout_env_runner import RolloutEnvRunner
from rllib_seqmarl.envs import JointEnvError

pytestmark = pytest.mark.usefixtures("ray_cluster")

NAN_REWARD_MESSAGE = ", step 3: agent 'agent_1': its reward is nan"


def make_creator(spoil: Callable[[Any], Any], at_step: int) -> Callable[..., Any]:
    """Return a creator of an environment that fails at a step; a local class, so that workers can unpickle it."""

    def create(**options: Any) -> Any:
        from rllib_seqmarl.envs.suites.coordination import DistinctChoice

        class Spoilt(DistinctChoice):
            steps = 0

            def step(self, actions: dict[str, int]) -> Any:
                self.steps += 1
                results = super().step(actions)
                if self.steps == at_step:
                    spoil(results)
                return results

        return Spoilt(n_agents=2, max_cycles=5, **options)

    return create


def nan_reward() -> Callable[[Any], None]:
    """Return a function that sets an agent's reward to NaN."""

    def spoil(results: Any) -> None:
        results[1]["agent_1"] = float("nan")

    return spoil


def config(env: Any) -> MATConfig:
    return (
        MATConfig()
        .environment(env)
        .env_runners(num_envs_per_env_runner=2)
        .training(train_batch_size_per_learner=40, num_epochs=1)
        .network(embed_dim=16)
        .fault_tolerance(delay_between_env_runner_restarts_s=0.1)
    )


@pytest.mark.parametrize("num_env_runners", [0, 1])
def test_a_contract_violation_ends_training(num_env_runners: int) -> None:
    algo = config(make_creator(nan_reward(), at_step=8)).env_runners(num_env_runners=num_env_runners).build_algo()
    with pytest.raises(JointEnvError, match=NAN_REWARD_MESSAGE):
        algo.train()
    algo.stop()


def test_an_error_in_evaluation_is_reported() -> None:
    defective, valid = make_creator(nan_reward(), at_step=3), make_creator(nan_reward(), at_step=10**9)

    def spoilt_in_evaluation(is_spoilt: bool = False) -> Any:
        return defective() if is_spoilt else valid()

    algo = (
        config(spoilt_in_evaluation)
        .evaluation(evaluation_num_env_runners=1, evaluation_config={"env_config": {"is_spoilt": True}})
        .build_algo()
    )
    algo.train()
    with pytest.raises(JointEnvError, match=NAN_REWARD_MESSAGE):
        algo.evaluate()
    algo.stop()


def failing_callback(**_: Any) -> None:
    raise KeyError("collisions")


def failing_connector(env: Any, spaces: Any = None, device: Any = None) -> ConnectorV2:
    class Failing(ConnectorV2):
        def __call__(self, **_: Any) -> Any:
            raise TypeError("no such column")

    return Failing()


USER_CODE = {
    "on_sample_end": ({"callbacks_on_sample_end": failing_callback}, "callback 'on_sample_end' raised KeyError: 'coll"),
    "on_episode_end": ({"callbacks_on_episode_end": failing_callback}, "'on_episode_end'.*in failing_callback"),
    "on_episode_step": ({"callbacks_on_episode_step": failing_callback}, "'on_episode_step'.*test_env_errors.py, line"),
    "connector": ({"_env_to_module_connector": failing_connector}, "connector Failing raised TypeError: no such"),
}


@pytest.mark.parametrize("place", USER_CODE)
def test_an_error_in_user_code_on_a_worker_is_reported(place: str) -> None:
    """RLlib would restart a remote runner that fails in `apply`, and the error would recur."""
    options, message = USER_CODE[place]
    made = config(make_creator(nan_reward(), at_step=10**9))
    for key, value in options.items():
        setattr(made, key, value)
    made.validate()
    runner = RolloutEnvRunner(config=made, worker_index=0, num_workers=1, log_dir=place)
    board = EnvErrorBoard(place)
    with pytest.raises(UserCodeError, match=message), board.watched():
        runner.apply(lambda runner: runner.sample())
    board.clear()


def test_an_environment_that_cannot_be_created_on_a_worker_is_reported() -> None:
    def broken(**_: Any) -> Any:
        from gymnasium import spaces

        from rllib_seqmarl.envs.suites.coordination import DistinctChoice

        env = DistinctChoice(n_agents=2)
        env.action_spaces["agent_1"] = spaces.Box(0.0, 1.0, (1,))
        return env

    with pytest.raises(JointEnvError, match="cannot be joined"):
        config(broken).env_runners(num_env_runners=1).build_algo()


def test_a_crashed_runner_is_restarted(tmp_path: Path) -> None:
    crashed = str(tmp_path / "crashed")

    def spoil(results: Any) -> None:
        import os

        if not os.path.exists(crashed):
            open(crashed, "w").close()
            raise RuntimeError("the simulator crashed")

    algo = config(make_creator(spoil, at_step=8)).env_runners(num_env_runners=1).build_algo()
    steps = 0
    for _ in range(100):  # two seconds each; workers start slowly on a busy machine
        steps = algo.train().get("num_env_steps_sampled_lifetime", 0)
        if steps >= 80:
            break
    algo.stop()
    assert Path(crashed).exists()
    assert steps >= 80


def test_recording_runners_report_errors(tmp_path: Path) -> None:
    algo = (
        config(make_creator(nan_reward(), at_step=8))
        .env_runners(num_env_runners=1, batch_mode="complete_episodes")
        .offline_data(output=str(tmp_path))
        .build_algo()
    )
    with pytest.raises(JointEnvError, match=NAN_REWARD_MESSAGE):
        algo.train()
    algo.stop()


def test_the_command_line_shows_the_message_and_the_last_checkpoint(tmp_path: Path) -> None:
    spoilt = make_creator(nan_reward(), at_step=88)  # in the fourth or fifth iteration
    tune.register_env("tests/nan_later", lambda env_config: spoilt())
    config = "num_env_runners: 1, num_envs_per_env_runner: 2, train_batch_size_per_learner: 40, num_epochs: 1"
    command = ["train", "--run", "MAT", "--env", "tests/nan_later", "--config", f"{{{config}, embed_dim: 16}}"]
    command += ["--stop", "{training_iteration: 50}", "--local-dir", str(tmp_path), "--checkpoint-freq", "1"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert NAN_REWARD_MESSAGE in result.output and "JointEnvError" not in result.output
    *_, last_checkpoint = sorted(tmp_path.rglob("checkpoint_*"))
    assert str(last_checkpoint) in result.output
