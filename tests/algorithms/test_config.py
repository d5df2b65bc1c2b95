"""A joint-policy config says what is wrong with it, in one message that names the key, the value and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rllib_seqmarl import MATConfig
from rllib_seqmarl.env_runners.joint_env_runner import RecordingJointEnvRunner
from rllib_seqmarl.env_runners.rollout_env_runner import RolloutEnvRunner
from rllib_seqmarl.env_runners.team_metrics import TeamMetrics
from rllib_seqmarl.envs.joint_env_creator import JointEnvCreator

ENV = "coordination/distinct_choice"


def config(**options: Any) -> MATConfig:
    return MATConfig().environment(ENV).update_from_dict(options)


BAD_OPTIONS: dict[str, tuple[Callable[[], MATConfig], str]] = {
    "misspelt": (lambda: config(clip_parm=0.1), "no option 'clip_parm'. Did you mean 'clip_param'"),
    "number": (lambda: config(clip_param="0.1"), "clip_param='0.1' is not a number > 0"),
    "schedule": (lambda: config(lr=[[0, "a"]]), r"lr=\[\[0, 'a'\]\] is not a number >= 0 or a schedule"),
    "schedule below 0": (lambda: config(lr=[[0, 1e-3], [100, -1e-3]]), "lr=.* is not a number >= 0 or a schedule"),
    "rate below 0": (lambda: config(entropy_coeff=-0.1), "entropy_coeff=-0.1 is not a number >= 0"),
    "env runners": (lambda: config(num_env_runners="2"), "num_env_runners='2' is not a whole number >= 0"),
    "learners": (lambda: config(num_learners=-1), "num_learners=-1 is not a whole number >= 0"),
    "fragment": (
        lambda: config(rollout_fragment_length=0),
        "rollout_fragment_length=0 is not a whole number >= 1, or 'auto'",
    ),
    "batch mode": (lambda: config(batch_mode="episodes"), "batch_mode='episodes' is not 'truncate_episodes' or"),
    "evaluation interval": (
        lambda: config(evaluation_interval="often"),
        "evaluation_interval='often' is not a whole number >= 1, or None",
    ),
    "evaluation runners": (
        lambda: config(evaluation_num_env_runners="1"),
        "evaluation_num_env_runners='1' is not a whole number >= 0",
    ),
    "evaluation unit": (
        lambda: config(evaluation_interval=1, evaluation_duration_unit="steps"),
        "evaluation_duration_unit='steps' is not 'episodes' or 'timesteps'",
    ),
    "count": (lambda: config(num_epochs=0), "num_epochs=0 is not a whole number >= 1"),
    "boolean": (lambda: config(agent_ids="yes"), "agent_ids='yes' is not True or False"),
    "overlap": (lambda: config(sample_while_learning=2), "sample_while_learning=2 is not True or False"),
    "choice": (lambda: config(team_reward="max"), "team_reward='max' is not 'mean' or 'sum'"),
    "minibatch": (
        lambda: config(minibatch_size=900, train_batch_size_per_learner=800),
        "minibatch_size=900 is larger than train_batch_size_per_learner=800",
    ),
    "heads": (lambda: config(embed_dim=64, n_head=5), "embed_dim=64 cannot be split among n_head=5"),
    "mixer": (lambda: config(encoder_mixer="atention"), "'atention'.*Did you mean 'attention'"),
    "model_config": (
        lambda: MATConfig().environment(ENV).rl_module(model_config={"embed_dims": 3}),
        "model_config has no entry 'embed_dims'. Did you mean 'embed_dim'",
    ),
    "environment": (lambda: MATConfig().environment("mpe/simple_spred"), "Did you mean 'mpe/simple_spread'"),
    "old stack": (
        lambda: MATConfig().environment(ENV).api_stack(enable_rl_module_and_learner=False),
        "new API stack only. Remove `enable_rl_module_and_learner=False`",
    ),
    "framework": (lambda: config(framework_str="tf2"), "framework='tf2' is not supported"),
    "policies": (
        lambda: MATConfig().environment(ENV).multi_agent(policies={"a", "b"}),
        r"policies=\['a', 'b'\].*RLlib's PPO",
    ),
    "kl loss": (lambda: config(use_kl_loss=True), "use_kl_loss=True is not part of the joint objective"),
    "critic": (lambda: config(use_critic=False), "use_critic=False is not supported"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_named(case: str) -> None:
    make, message = BAD_OPTIONS[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make().validate()


def test_the_defaults_are_valid_and_validation_can_be_repeated() -> None:
    good = config()
    good.validate()
    good.validate()
    assert repr(good.env) == ENV


def test_fluent_methods_and_dict_set_the_same_options() -> None:
    fluent = (
        MATConfig()
        .environment(ENV)
        .training(lr=1e-3, huber_delta=None, shared_reward=True)
        .network(embed_dim=32, n_head=2)
        .joint_env(team_reward="sum", agent_ids=False)
    )
    by_dict = config(
        lr=1e-3,
        huber_delta=None,
        shared_reward=True,
        embed_dim=32,
        n_head=2,
        team_reward="sum",
        agent_ids=False,
    )
    assert fluent.to_dict() == by_dict.to_dict()


def test_env_runners_that_tell_their_environments_errors_are_chosen_unless_the_user_chose() -> None:
    class Mine(SingleAgentEnvRunner):
        pass

    recording = config(output="recordings", batch_mode="complete_episodes")
    silent = recording.copy(copy_frozen=False)
    silent.output = None
    chosen = config().env_runners(env_runner_cls=Mine)
    for one, expected in ((config(), RolloutEnvRunner), (recording, RecordingJointEnvRunner), (chosen, Mine)):
        one.validate()
        assert one.env_runner_cls is expected
    silent.env_runner_cls = recording.env_runner_cls  # what an evaluation config that does not record starts from
    silent.validate()
    assert silent.env_runner_cls is RolloutEnvRunner


def test_the_users_callbacks_stay_beside_the_team_metrics() -> None:
    class Mine(RLlibCallback):
        pass

    with_callbacks = config().callbacks(Mine)
    with_callbacks.validate()
    assert with_callbacks.callbacks_class == [TeamMetrics, Mine]


def test_sizes_may_be_set_as_rllibs_model_config() -> None:
    by_model_config = config().rl_module(model_config={"embed_dim": 32})
    by_model_config.validate()
    assert by_model_config.model_config["embed_dim"] == 32


def test_without_validation_the_environment_is_joined_all_the_same() -> None:
    unchecked = config(clip_param="any").experimental(_validate_config=False)
    unchecked.validate()
    assert isinstance(unchecked.env, JointEnvCreator)
