"""RLlib options that have no effect here, and their replacements.

Python configs and experiment files are rejected with the same advice. `tests/algorithms/test_options.py` lists every
option of RLlib: each one is supported, checked by `validation.py`, or in one of the two tables here.
"""

from __future__ import annotations

_LEAVE_OUT = "leave it out"
_SCHEDULE = "write the schedule itself, as in '{key}: [[0, 1e-3], [1000000, 1e-4]]'"
_TEAM = "leave it out: one joint policy acts for the whole team (for independent policies use RLlib from Python)"
_MODEL = (
    "write the network's sizes as top-level keys, such as 'embed_dim: 64' (in Python "
    "`config.network(embed_dim=64)`; for RLlib's own algorithms `config.rl_module(...)`)"
)


def _write(key: str) -> str:
    return f"write '{key}' instead"


RETIRED_OPTIONS: dict[str, str] = {
    # sampling
    "num_workers": _write("num_env_runners"),
    "num_rollout_workers": _write("num_env_runners"),
    "num_envs_per_worker": _write("num_envs_per_env_runner"),
    "num_cpus_per_worker": _write("num_cpus_per_env_runner"),
    "num_gpus_per_worker": _write("num_gpus_per_env_runner"),
    "custom_resources_per_worker": _write("custom_resources_per_env_runner"),
    "validate_workers_after_construction": _write("validate_env_runners_after_construction"),
    "sample_batch_size": _write("rollout_fragment_length"),
    "remote_worker_envs": "set 'gym_env_vectorize_mode' to 'async' instead",
    "observation_filter": "use `env_runners(env_to_module_connector=lambda *args: MeanStdFilter())` from Python",
    "preprocessor_pref": "leave it out: preprocessing is done by connectors",
    "enable_connectors": "leave it out: connectors are always used",
    "horizon": "give the environment's own time limit in 'env_config'",
    "soft_horizon": "give the environment's own time limit in 'env_config'",
    "no_done_at_end": "leave it out: truncation is kept apart from termination",
    "exploration_config": "write 'explore: true' or 'explore: false' instead",
    "sample_collector": "leave it out: env runners collect whole episodes",
    # learning
    "num_gpus": _write("num_gpus_per_learner"),
    "num_learner_workers": _write("num_learners"),
    "num_cpus_per_learner_worker": _write("num_cpus_per_learner"),
    "num_gpus_per_learner_worker": _write("num_gpus_per_learner"),
    "num_cpus_for_driver": _write("num_cpus_for_main_process"),
    "num_cpus_for_local_worker": _write("num_cpus_for_main_process"),
    "train_batch_size": _write("train_batch_size_per_learner"),
    "sgd_minibatch_size": _write("minibatch_size"),
    "num_sgd_iter": _write("num_epochs"),
    "lr_schedule": _SCHEDULE.format(key="lr"),
    "entropy_coeff_schedule": _SCHEDULE.format(key="entropy_coeff"),
    "simple_optimizer": _LEAVE_OUT,
    # network
    "model": _MODEL,
    "model_config": _MODEL,
    "model_config_dict": _MODEL,
    "vf_share_layers": "leave it out: encoder and value head are shared by design",
    "_enable_rl_module_api": "leave it out: it is always on",
    "_enable_learner_api": "leave it out: it is always on",
    "_enable_new_api_stack": "leave it out: it is always on",
    # several policies
    "multiagent": _TEAM,
    "policies": _TEAM,
    "policy_mapping_fn": _TEAM,
    "policies_to_train": _TEAM,
    # evaluation and reporting
    "evaluation_num_workers": _write("evaluation_num_env_runners"),
    "evaluation_num_episodes": "write 'evaluation_duration' and 'evaluation_duration_unit: episodes' instead",
    "always_attach_evaluation_results": _LEAVE_OUT,
    "metrics_smoothing_episodes": _write("metrics_num_episodes_for_smoothing"),
    "collect_metrics_timeout": _write("metrics_episode_collection_timeout_s"),
    "min_iter_time_s": _write("min_time_s_per_iteration"),
    "min_time_s_per_reporting": _write("min_time_s_per_iteration"),
    "timesteps_per_iteration": _write("min_sample_timesteps_per_iteration"),
    "min_sample_timesteps_per_reporting": _write("min_sample_timesteps_per_iteration"),
    "min_train_timesteps_per_reporting": _write("min_train_timesteps_per_iteration"),
    "monitor": "use `rllib evaluate CHECKPOINT --render out.gif`",
    "record_env": "use `rllib evaluate CHECKPOINT --render out.gif`",
    "render_env": "use `rllib evaluate CHECKPOINT --render out.gif`",
    # fault tolerance
    "ignore_worker_failures": _write("ignore_env_runner_failures"),
    "recreate_failed_workers": _write("restart_failed_env_runners"),
    "recreate_failed_env_runners": _write("restart_failed_env_runners"),
    "max_num_worker_restarts": _write("max_num_env_runner_restarts"),
    "delay_between_worker_restarts_s": _write("delay_between_env_runner_restarts_s"),
    "num_consecutive_worker_failures_tolerance": _write("num_consecutive_env_runner_failures_tolerance"),
    "worker_health_probe_timeout_s": _write("env_runner_health_probe_timeout_s"),
    "worker_restore_timeout_s": _write("env_runner_restore_timeout_s"),
}
"""Options of the old API stack and of earlier versions, for every algorithm."""

_OFFLINE = (
    "leave it out: joint policies learn from the environment (for offline learning use RLlib's BC, MARWIL or CQL)"
)
_OFFLINE_EVALUATION = "leave it out: a joint policy is evaluated in the environment (see 'evaluation_interval')"
_TF = "leave it out: networks are torch modules"
_REPLAY = "leave it out: PPO has no replay buffer"
_RUNTIME_ENV = "set variables with `ray.init(runtime_env={'env_vars': {...}})`"
_CLIPPED = "leave it out: each agent's ratio is clipped instead (see 'clip_param'), and `approx_kl` is reported"
_SPACES = "leave it out: the environment's own spaces are used"
_AGGREGATORS = "leave it out: PPO has no aggregator actors"
_CONNECTED = "leave it out: connector states are always synchronized (see 'merge_env_runner_states')"

_UNUSED: dict[str, str] = {
    # sampling
    "action_mask_key": "leave it out: `JointEnv` finds the environment's action masks",
    "auto_wrap_old_gym_envs": _LEAVE_OUT,
    "clip_rewards": "leave it out, or clip in the environment: returns are normalized already ('use_value_norm')",
    "compress_observations": _LEAVE_OUT,
    "disable_env_checking": "leave it out: there are no optional checks while stepping",
    "env_task_fn": "set tasks from a callback with `env_runner_group.foreach_env(lambda env: env.set_task(...))`",
    "episodes_to_numpy": "leave it out: samples are arrays",
    "env_runner_state_server_max_concurrency": _LEAVE_OUT,
    "use_env_runner_state_server": _LEAVE_OUT,
    "extra_python_environs_for_driver": _RUNTIME_ENV,
    "extra_python_environs_for_worker": _RUNTIME_ENV,
    "fake_sampler": _LEAVE_OUT,
    "observation_fn": "use an `env_to_module_connector`, or change observations in the environment",
    "remote_env_batch_wait_ms": _LEAVE_OUT,
    "sampler_perf_stats_ema_coef": _LEAVE_OUT,
    "synchronize_filters": _CONNECTED,
    "update_worker_filter_stats": _CONNECTED,
    "use_worker_filter_stats": _CONNECTED,
    "worker_cls": _write("env_runner_cls"),
    "action_space": _SPACES,
    "observation_space": _SPACES,
    # learning
    "algorithm_config_overrides_per_module": "set these options on the algorithm itself: there is one module",
    "count_steps_by": "leave it out: a step is one step of the whole team",
    "kl_coeff": _CLIPPED,
    "kl_target": _CLIPPED,
    "optimizer": "leave it out: Adam is used (see 'lr' and 'adam_epsilon')",
    "max_requests_in_flight_per_aggregator_actor": _AGGREGATORS,
    "num_aggregator_actors_per_learner": _AGGREGATORS,
    "checkpoint_trainable_policies_only": "leave it out: the joint policy is trainable",
    "export_native_model_files": "leave it out: every checkpoint holds the policy as safetensors and JSON",
    "policy_map_cache": _TEAM,
    "policy_map_capacity": _TEAM,
    "policy_states_are_swappable": _TEAM,
    "buffer_size": _REPLAY,
    "learning_starts": _REPLAY,
    "prioritized_replay": _REPLAY,
    "prioritized_replay_alpha": _REPLAY,
    "prioritized_replay_beta": _REPLAY,
    "prioritized_replay_eps": _REPLAY,
    "replay_batch_size": _REPLAY,
    "replay_mode": _REPLAY,
    "replay_sequence_length": _REPLAY,
    # the machine
    "_fake_gpus": "leave it out: set 'num_gpus_per_learner' to 0 where there is no GPU",
    "log_sys_usage": "leave it out: Ray's dashboard shows resource usage",
    "eager_max_retraces": _TF,
    "eager_tracing": _TF,
    "enable_tf1_exec_eagerly": _TF,
    "local_tf_session_args": _TF,
    "tf_session_args": _TF,
    "_tf_policy_handles_more_than_one_loss": _TF,
    "_disable_action_flattening": _LEAVE_OUT,
    "_disable_execution_plan_api": _LEAVE_OUT,
    "_disable_initialize_loss_from_dummy_batch": _LEAVE_OUT,
    "_disable_preprocessor_api": _LEAVE_OUT,
    # evaluation and reporting
    "custom_async_evaluation_function": _write("custom_evaluation_function"),
    "enable_async_evaluation": _write("evaluation_parallel_to_training"),
    "keep_per_episode_custom_metrics": "log metrics with the `metrics_logger` of callbacks",
    # recording
    "output_config": "use 'output_write_method_kwargs' and the other 'output_...' options",
    "output_max_file_size": _write("output_max_rows_per_file"),
}

_OFFLINE_LEARNING = [
    "actions_in_input_normalized",
    "dataset_num_iters_per_learner",
    "ignore_final_observation",
    "input_",
    "input_compress_columns",
    "input_config",
    "input_filesystem",
    "input_filesystem_kwargs",
    "input_read_batch_size",
    "input_read_episodes",
    "input_read_method",
    "input_read_method_kwargs",
    "input_read_sample_batches",
    "input_read_schema",
    "input_spaces_jsonable",
    "iter_batches_kwargs",
    "map_batches_kwargs",
    "materialize_data",
    "materialize_mapped_data",
    "offline_data_class",
    "offline_sampling",
    "postprocess_inputs",
    "prelearner_buffer_class",
    "prelearner_buffer_kwargs",
    "prelearner_class",
    "prelearner_module_synch_period",
    "prelearner_use_recorded_module_states",
    "shuffle_buffer_size",
]

_EVALUATION_OFFLINE = [
    "broadcast_offline_eval_runner_states",
    "custom_resources_per_offline_eval_runner",
    "dataset_num_iters_per_eval_runner",
    "ignore_offline_eval_runner_failures",
    "input_evaluation",
    "max_num_offline_eval_runner_restarts",
    "max_requests_in_flight_per_offline_eval_runner",
    "num_cpus_per_offline_eval_runner",
    "num_gpus_per_offline_eval_runner",
    "num_offline_eval_runners",
    "off_policy_estimation_methods",
    "offline_eval_batch_size_per_runner",
    "offline_eval_rl_module_inference_only",
    "offline_eval_runner_class",
    "offline_eval_runner_health_probe_timeout_s",
    "offline_eval_runner_restore_timeout_s",
    "offline_evaluation_duration",
    "offline_evaluation_interval",
    "offline_evaluation_parallel_to_training",
    "offline_evaluation_timeout_s",
    "offline_evaluation_type",
    "offline_loss_for_module_fn",
    "ope_split_batch_by_episode",
    "restart_failed_offline_eval_runners",
    "validate_offline_eval_runners_after_construction",
    "callbacks_on_evaluate_offline_end",
    "callbacks_on_evaluate_offline_start",
    "callbacks_on_offline_eval_runners_recreated",
]

UNUSED_OPTIONS: dict[str, str] = {
    **_UNUSED,
    **dict.fromkeys(_OFFLINE_LEARNING, _OFFLINE),
    **dict.fromkeys(_EVALUATION_OFFLINE, _OFFLINE_EVALUATION),
}
"""Options that only other RLlib algorithms use or that RLlib itself ignores."""
