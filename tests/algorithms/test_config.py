"""Invalid joint-policy configs raise an error that names the key, the value and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rllib_seqmarl import MATConfig
from rllib_seqmarl.env_runners.joint_env_runner import RecordingJointEnvRunner
from rllib_seqmarl.env_runners.rollout_env_runner import RolloutEnvRunner
from rllib_seqmarl.env_runners.team_metrics import TeamMetrics
from rllib_seqmarl.envs.joint_env_creator import JointEnvCreator
from rllib_seqmarl.learners.joint_ppo_torch_learner import JointPPOTorchLearner
from rllib_seqmarl.modules.joint_sequence_module import JointSequenceModule

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
    "RLlib's boolean": (
        lambda: config(torch_skip_nan_gradients="no"),
        "torch_skip_nan_gradients='no' is not True or F",
    ),
    "seed": (lambda: config(seed=-1), r"seed=-1 is not a whole number from 0 to 2\*\*32 - 1"),
    "smoothing": (
        lambda: config(metrics_num_episodes_for_smoothing=0),
        "metrics_num_episodes_for_smoothing=0 is not a w",
    ),
    "order of a schedule": (lambda: config(lr=[[0, 1e-3], [9, 1e-4], [5, 0]]), "lr=.* is not .*in order of timesteps"),
    "copies": (lambda: config(env_config={"num_envs": 5}), "env_config: num_envs=5 has no effect: .* num_envs_per_env"),
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
    "policy in model_config": (
        lambda: MATConfig().environment(ENV).rl_module(model_config={"policy": "independent"}),
        "model_config has no entry 'policy'.* set them with `config.network",
    ),
    "environment": (lambda: MATConfig().environment("mpe/simple_spred"), "Did you mean 'mpe/simple_spread'"),
    "old stack": (
        lambda: MATConfig().environment(ENV).api_stack(enable_rl_module_and_learner=False),
        "new API stack only. Remove `enable_rl_module_and_learner=False`",
    ),
    "framework": (lambda: config(framework_str="tf2"), "framework='tf2' is not supported"),
    "policies": (
        lambda: MATConfig().environment(ENV).multi_agent(policies={"a", "b"}),
        r"policies=\['a', 'b'\].*IPPO",
    ),
    "kl loss": (lambda: config(use_kl_loss=True), "use_kl_loss=True is not part of the joint objective"),
    "critic": (lambda: config(use_critic=False), "use_critic=False is not supported"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_named(case: str) -> None:
    make, message = BAD_OPTIONS[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make().validate()


class PlainLearner(PPOTorchLearner):
    pass


class PlainRunner(SingleAgentEnvRunner):
    pass


class MyRunner(RolloutEnvRunner):
    pass


INCOMPATIBLE: dict[str, tuple[Callable[[], MATConfig], str]] = {
    "learner": (
        lambda: config().learners(learner_class=PlainLearner),
        "learner_class=PlainLearner cannot be used.* Derive it from .*JointPPOTorchLearner",
    ),
    "env runner": (
        lambda: config().env_runners(env_runner_cls=PlainRunner),
        "env_runner_cls=PlainRunner cannot be used.* Derive it from .*JointEnvRunner",
    ),
    "env runner that does not record": (
        lambda: config(output="recordings", batch_mode="complete_episodes").env_runners(env_runner_cls=MyRunner),
        "env_runner_cls=MyRunner cannot be used.* Derive it from .*RecordingJointEnvRunner",
    ),
    "module": (
        lambda: config().rl_module(rl_module_spec=RLModuleSpec(module_class=DefaultPPOTorchRLModule)),
        "rl_module_spec.module_class=DefaultPPOTorchRLModule cannot be used.* Derive it from .*JointSequenceModule",
    ),
    "modules": (
        lambda: config().rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs={"a": RLModuleSpec()})),
        "rl_module_spec=MultiRLModuleSpec.* is not supported: a team has one module",
    ),
    "model config of a spec": (
        lambda: config().rl_module(rl_module_spec=RLModuleSpec(model_config={"embed_dim": 8})),
        r"rl_module_spec.model_config is not supported; set the options with `config.network\(",
    ),
    "connector": (
        lambda: config().env_runners(env_to_module_connector=MeanStdFilter()),
        "env_to_module_connector=MeanStdFilter.* is not a function that makes connectors. Write `.*lambda",
    ),
    "connector's class": (
        lambda: config().learners(learner_connector=MeanStdFilter),
        "learner_connector=MeanStdFilter is not a function that makes connectors",
    ),
    "callbacks": (
        lambda: config().callbacks(PlainRunner),
        "callbacks_class=PlainRunner cannot be used.* Derive it from .*RLlibCallback",
    ),
    "callback": (
        lambda: config(callbacks_on_episode_end=[print, "print"]),
        "callbacks_on_episode_end=.* is not a function or a list of functions",
    ),
}


@pytest.mark.parametrize("case", INCOMPATIBLE)
def test_incompatible_classes_are_rejected_with_the_base_class_to_use(case: str) -> None:
    make, message = INCOMPATIBLE[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make().validate()


def test_compatible_classes_are_used() -> None:
    class Learner(JointPPOTorchLearner):
        pass

    class Module(JointSequenceModule):
        pass

    own = config().learners(learner_class=Learner).rl_module(rl_module_spec=RLModuleSpec(module_class=Module))
    own.validate()
    assert own.learner_class is Learner and own.rl_module_spec.module_class is Module


def test_numpy_numbers_are_stored_as_pythons() -> None:
    options = {"num_epochs": np.int64(5), "lr": np.float32(0.5), "shared_reward": np.True_, "embed_dim": np.int32(32)}
    joint = config(**options)
    joint.validate()
    assert {key: getattr(joint, key) for key in options} == {key: value.item() for key, value in options.items()}
    assert type(joint.num_epochs) is int and joint.shared_reward is True


def test_validation_does_not_modify_the_config() -> None:
    """Options may still be changed after validation."""
    made = config(num_learners=2, output="recordings", batch_mode="complete_episodes")
    before = dict(vars(made))
    made.validate()
    assert vars(made) == before
    made.training(train_batch_size_per_learner=400).joint_env(team_reward="sum").output = None
    made.validate()
    assert made.minibatch_size is None
    assert made.env_runner_cls is RolloutEnvRunner
    assert made.env.joint_options["team_reward"] == "sum"


def test_environments_whose_creators_read_the_context_are_vectorized_by_gymnasium() -> None:
    made = MATConfig().environment(lambda env_config: None)
    made.validate()
    assert made.gym_env_vectorize_mode == "sync"
    assert made.environment(ENV).gym_env_vectorize_mode == "vector_entry_point"


def test_configs_survive_copies_dicts_and_pickling() -> None:
    made = config(evaluation_config={"explore": False}, lr=1e-3).callbacks(RLlibCallback)
    made.validate()
    made.freeze()
    copies = [
        made.copy(copy_frozen=False),
        MATConfig.from_dict(made.to_dict()),
        MATConfig().update_from_dict(made.to_dict()),
        MATConfig.from_state(made.get_state()),
        cloudpickle.loads(cloudpickle.dumps(made)),
    ]
    for other in copies:
        other.validate()
        assert other.env == made.env and other.lr == 1e-3
        assert other.callbacks_class == made.callbacks_class


def test_states_of_earlier_versions_are_supported() -> None:
    """In these states, validation had replaced options with their resolved values."""
    state = config().get_state()
    state.pop("_train_batch_size")
    state |= {
        "train_batch_size": 4000,
        "env": JointEnvCreator(ENV, agent_ids=True, agent_order="shuffled"),
        "env_runner_cls": RolloutEnvRunner,
        "callbacks_class": [TeamMetrics, RLlibCallback],
        "simple_optimizer": False,
    }
    restored = MATConfig.from_state(state)
    restored.validate()
    assert restored.env == config().env
    assert restored.callbacks_class == config().callbacks_class


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


def test_default_env_runners_depend_on_recording() -> None:
    recording = config(output="recordings", batch_mode="complete_episodes")
    chosen = config().env_runners(env_runner_cls=MyRunner)
    for one, expected in ((config(), RolloutEnvRunner), (recording, RecordingJointEnvRunner), (chosen, MyRunner)):
        one.validate()
        assert one.env_runner_cls is expected
    silent = recording.copy(copy_frozen=False)  # like an evaluation config that does not record
    silent.output = None
    assert silent.env_runner_cls is RolloutEnvRunner


def test_user_callbacks_are_added_to_the_team_metrics() -> None:
    class Mine(RLlibCallback):
        pass

    with_callbacks = config().callbacks(Mine)
    with_callbacks.validate()
    assert with_callbacks.callbacks_class == [TeamMetrics, Mine]


def test_sizes_may_be_set_as_rllibs_model_config() -> None:
    by_model_config = config().rl_module(model_config={"embed_dim": 32})
    by_model_config.validate()
    assert by_model_config.model_config["embed_dim"] == 32


def test_the_environment_is_joined_without_validation_too() -> None:
    unchecked = config(clip_param="any").experimental(_validate_config=False)
    unchecked.validate()
    assert isinstance(unchecked.env, JointEnvCreator)
