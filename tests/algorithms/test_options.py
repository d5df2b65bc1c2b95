"""Every option of RLlib's PPO is supported, checked, or rejected by name with its replacement."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray._common.deprecation import DEPRECATED_VALUE
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_seqmarl import MATConfig, make_joint_env
from rllib_seqmarl.algorithms import JointPPOConfig
from rllib_seqmarl.algorithms.evaluation import check_evaluation_team
from rllib_seqmarl.algorithms.unused_options import RETIRED_OPTIONS, UNUSED_OPTIONS
from rllib_seqmarl.algorithms.validation import OPTION_CHECKS

ENV = "coordination/distinct_choice"

# Component -> options. New RLlib versions fail the test below until all their options are listed.
SUPPORTED: dict[str, str] = {
    "RLlib's own state rather than options": """
        _is_atari _is_frozen _is_online _per_module_overrides _prior_exploration_config algo_class in_evaluation
        _train_batch_size_per_learner""",
    "the config: resolved by JointPPOConfig, or checked by name or class in validation.py and user_code.py": """
        env env_runner_cls callbacks_class gym_env_vectorize_mode _learner_class _rl_module_spec _model_config
        _env_to_module_connector _module_to_env_connector _learner_connector evaluation_config framework_str
        enable_rl_module_and_learner enable_env_runner_and_connector_v2 use_critic use_gae use_kl_loss
        callbacks_on_algorithm_init callbacks_on_checkpoint_loaded callbacks_on_env_runners_recreated
        callbacks_on_environment_created callbacks_on_episode_created callbacks_on_episode_end
        callbacks_on_episode_start callbacks_on_episode_step callbacks_on_evaluate_end callbacks_on_evaluate_start
        callbacks_on_sample_end callbacks_on_train_result _validate_config""",
    "env runners": """
        create_env_on_local_worker create_local_env_runner episode_lookback_horizon restart_failed_sub_environments
        add_default_connectors_to_env_to_module_pipeline add_default_connectors_to_module_to_env_pipeline
        explore normalize_actions clip_actions torch_compile_worker torch_compile_worker_dynamo_backend
        torch_compile_worker_dynamo_mode stats_cls_lookup""",
    "RecordingJointEnvRunner": """
        output output_compress_columns output_filesystem output_filesystem_kwargs output_max_rows_per_file
        output_write_episodes output_write_method output_write_method_kwargs output_write_remaining_data""",
    "RLlib's EnvRunnerGroup": """
        broadcast_env_runner_states merge_env_runner_states _dont_auto_sync_env_runner_states
        custom_resources_per_env_runner delay_between_env_runner_restarts_s
        env_runner_health_probe_timeout_s env_runner_restore_timeout_s ignore_env_runner_failures
        max_num_env_runner_restarts num_consecutive_env_runner_failures_tolerance restart_failed_env_runners
        max_requests_in_flight_per_env_runner sync_filters_on_rollout_workers_timeout_s
        validate_env_runners_after_construction""",
    "JointPPO and its Sampler": "shuffle_batch_per_epoch",
    "JointPPOTorchLearner": """
        add_default_connectors_to_learner_pipeline log_gradients torch_skip_nan_gradients _torch_grad_scaler_class
        _torch_lr_scheduler_classes torch_compile_learner torch_compile_learner_dynamo_backend
        torch_compile_learner_dynamo_mode torch_compile_learner_what_to_compile torch_ddp_kwargs learner_config_dict""",
    "RLlib's LearnerGroup": """
        custom_resources_per_learner num_cpus_per_learner local_gpu_idx
        max_requests_in_flight_per_learner""",
    "RLlib's Algorithm": """
        _use_msgpack_checkpoints custom_evaluation_function custom_resources_for_main_process
        num_cpus_for_main_process placement_strategy log_level
        evaluation_auto_duration_max_env_steps_per_sample evaluation_auto_duration_min_env_steps_per_sample
        evaluation_duration evaluation_error_after_n_consecutive_skips evaluation_force_reset_envs_before_iteration
        evaluation_parallel_to_training evaluation_unhealthy_workers_timeout_s""",
}
REJECTED = RETIRED_OPTIONS | UNUSED_OPTIONS
ALL = vars(PPOConfig())


def changed(value: Any) -> Any:
    """Return another value of the same type."""
    if value == DEPRECATED_VALUE or value is None:
        return 3
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, dict):
        return {**value, "another": 1}
    return [*value, "another"] if isinstance(value, list) else "another"


def test_every_rllib_option_is_listed_once() -> None:
    supported = [name for names in SUPPORTED.values() for name in names.split()]
    places = [*supported, *OPTION_CHECKS, *(REJECTED.keys() & ALL.keys())]
    assert sorted(places.count(name) for name in ALL) == [1] * len(ALL), [n for n in ALL if places.count(n) != 1]
    assert set(supported) <= set(ALL)
    assert not RETIRED_OPTIONS.keys() & UNUSED_OPTIONS.keys()
    assert UNUSED_OPTIONS.keys() <= ALL.keys()


@pytest.mark.parametrize("key", sorted(REJECTED.keys() & ALL.keys() - {"policies"}))
def test_changed_unused_options_are_rejected(key: str) -> None:
    config = MATConfig().environment(ENV)
    setattr(config, key, changed(getattr(config, key)))
    with pytest.raises(ValueError, match=f"^{key}=.* has no effect on .*; "):
        config.validate()


def test_advice_names_the_algorithms_of_this_package() -> None:
    assert "IPPO" in RETIRED_OPTIONS["policy_mapping_fn"] and "IPPO" in UNUSED_OPTIONS["policy_map_cache"]
    assert "MAPPO" in RETIRED_OPTIONS["vf_share_layers"] and "MAT" in RETIRED_OPTIONS["vf_share_layers"]


SETTERS: dict[str, Callable[[MATConfig], Any]] = {
    "train_batch_size=4000": lambda config: config.training(train_batch_size=4000),  # RLlib's default
    "model={'fcnet_hiddens': [8]}": lambda config: config.training(model={"fcnet_hiddens": [8]}),
    "num_gpus=1": lambda config: config.resources(num_gpus=1),
    "policy_mapping_fn": lambda config: config.multi_agent(policy_mapping_fn=lambda *args, **kwargs: "default_policy"),
    "policies=": lambda config: config.multi_agent(policies={"default_policy": (None, None, None, {"lr": 1.0})}),
    "horizon=50": lambda config: config.update_from_dict({"horizon": 50}),
    "algorithm_config_overrides_per_module": lambda config: config.rl_module(
        algorithm_config_overrides_per_module={"default_policy": {"clip_param": 0.5}}
    ),
}


@pytest.mark.parametrize("message", SETTERS)
def test_unused_options_are_rejected_from_methods_and_dicts(message: str) -> None:
    config = MATConfig().environment(ENV)
    SETTERS[message](config)
    with pytest.raises(ValueError, match=re.escape(message)):
        config.validate()


EVALUATION: dict[str, tuple[dict[str, Any], str]] = {
    "unused": ({"train_batch_size": 64}, "evaluation_config: train_batch_size=64 has no effect on RLlib's new"),
    "unknown": ({"exploree": False}, "evaluation_config: MATConfig has no option 'exploree'.*'explore'"),
    "value": ({"explore": "no"}, "evaluation_config: explore='no' is not True or False"),
    "of learning": ({"lambda": 0.5}, "evaluation_config: lambda=0.5 has no effect: evaluation uses the policy"),
    "of the network": ({"embed_dim": 32}, "evaluation_config: embed_dim=32 has no effect"),
    "overwritten": ({"num_env_runners": 2}, "evaluation_config: num_env_runners=2 .*'evaluation_num_env_runners'"),
}


@pytest.mark.parametrize("case", EVALUATION)
def test_evaluation_options_are_checked(case: str) -> None:
    overrides, message = EVALUATION[case]
    with pytest.raises(ValueError, match=message):
        MATConfig().environment(ENV).evaluation(evaluation_config=overrides).validate()


def test_evaluation_options_of_a_chosen_policy_are_checked() -> None:
    config = JointPPOConfig().environment(ENV).network(policy="independent")
    config.evaluation(evaluation_config={"hidden_sizes": (64, 64)}).validate()
    for overrides in ({"hidden_sizes": [8]}, {"policy": "independent", "critic": "observations"}):
        with pytest.raises(
            ValueError, match="evaluation_config: (hidden_sizes|critic)=.* has no effect: evaluation uses"
        ):
            config.evaluation(evaluation_config=overrides).validate()


def test_effective_evaluation_options_are_accepted() -> None:
    overrides = {"explore": False, "num_envs_per_env_runner": 4, "env_config": {"n_agents": 3}, "lr": MATConfig().lr}
    MATConfig().environment(ENV).evaluation(evaluation_config=overrides).validate()


def spaces(agent_ids: bool, **env_config: Any) -> Any:
    """Return a stand-in for an env runner group that only has spaces."""
    env = make_joint_env(ENV, env_config, agent_ids=agent_ids)
    module_spaces = {DEFAULT_MODULE_ID: (env.observation_space, env.action_space)}
    return SimpleNamespace(get_spaces=lambda: module_spaces)


def test_evaluation_with_another_team_works_if_the_network_allows_it() -> None:
    config = MATConfig().environment(ENV).joint_env(agent_ids=False)
    small, large = (spaces(False, n_agents=n, n_choices=4) for n in (2, 4))
    check_evaluation_team(config, small, large)
    check_evaluation_team(config, small, None)
    with pytest.raises(ValueError, match=r"for 2 agents with .* \[4\] actions, and cannot .* for 2 agents .* \[6\] ac"):
        check_evaluation_team(config, small, spaces(False, n_agents=2, n_choices=6))
    config.joint_env(agent_ids=True)
    with pytest.raises(ValueError, match=r"evaluation_config: .* 3 agents with .* 2 agents .* `joint_env\(agent_ids=F"):
        check_evaluation_team(config, spaces(True, n_agents=3), spaces(True, n_agents=2))
