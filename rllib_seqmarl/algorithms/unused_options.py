"""RLlib options that have no effect here, and their replacements.

Python configs and experiment files are rejected with the same advice. `tests/algorithms/test_options.py` lists every
option of RLlib: each one is supported, checked by `validation.py`, or in one of the two tables here.
"""

_TEAM = "leave it out: one joint policy acts for the whole team (independent ones: MAPPO, HAPPO, IPPO, MATDec)"
_SCHEDULE = "write the schedule itself, as in '{key}: [[0, 1e-3], [1000000, 1e-4]]'"


def _advice(renamed: dict[str, str], others: dict[str, str]) -> dict[str, str]:
    """Return option -> advice, from old -> new names and from advice -> options, separated by spaces."""
    advice = {old: f"write '{new}' instead" for old, new in renamed.items()}
    return advice | {option: text for text, options in others.items() for option in options.split()}


RETIRED_OPTIONS = _advice(
    {
        # sampling
        "num_workers": "num_env_runners",
        "num_rollout_workers": "num_env_runners",
        "num_envs_per_worker": "num_envs_per_env_runner",
        "num_cpus_per_worker": "num_cpus_per_env_runner",
        "num_gpus_per_worker": "num_gpus_per_env_runner",
        "custom_resources_per_worker": "custom_resources_per_env_runner",
        "validate_workers_after_construction": "validate_env_runners_after_construction",
        "sample_batch_size": "rollout_fragment_length",
        # learning
        "num_gpus": "num_gpus_per_learner",
        "num_learner_workers": "num_learners",
        "num_cpus_per_learner_worker": "num_cpus_per_learner",
        "num_gpus_per_learner_worker": "num_gpus_per_learner",
        "num_cpus_for_driver": "num_cpus_for_main_process",
        "num_cpus_for_local_worker": "num_cpus_for_main_process",
        "train_batch_size": "train_batch_size_per_learner",
        "sgd_minibatch_size": "minibatch_size",
        "num_sgd_iter": "num_epochs",
        # evaluation and reporting
        "evaluation_num_workers": "evaluation_num_env_runners",
        "metrics_smoothing_episodes": "metrics_num_episodes_for_smoothing",
        "collect_metrics_timeout": "metrics_episode_collection_timeout_s",
        "min_iter_time_s": "min_time_s_per_iteration",
        "min_time_s_per_reporting": "min_time_s_per_iteration",
        "timesteps_per_iteration": "min_sample_timesteps_per_iteration",
        "min_sample_timesteps_per_reporting": "min_sample_timesteps_per_iteration",
        "min_train_timesteps_per_reporting": "min_train_timesteps_per_iteration",
        # fault tolerance
        "ignore_worker_failures": "ignore_env_runner_failures",
        "recreate_failed_workers": "restart_failed_env_runners",
        "recreate_failed_env_runners": "restart_failed_env_runners",
        "max_num_worker_restarts": "max_num_env_runner_restarts",
        "delay_between_worker_restarts_s": "delay_between_env_runner_restarts_s",
        "num_consecutive_worker_failures_tolerance": "num_consecutive_env_runner_failures_tolerance",
        "worker_health_probe_timeout_s": "env_runner_health_probe_timeout_s",
        "worker_restore_timeout_s": "env_runner_restore_timeout_s",
    },
    {
        # sampling
        "set 'gym_env_vectorize_mode' to 'async' instead": "remote_worker_envs",
        "use `env_runners(env_to_module_connector=lambda *args: MeanStdFilter())` from Python": "observation_filter",
        "leave it out: preprocessing is done by connectors": "preprocessor_pref",
        "leave it out: connectors are always used": "enable_connectors",
        "give the environment's own time limit in 'env_config'": "horizon soft_horizon",
        "leave it out: truncation is kept apart from termination": "no_done_at_end",
        "write 'explore: true' or 'explore: false' instead": "exploration_config",
        "leave it out: env runners collect whole episodes": "sample_collector",
        # learning
        _SCHEDULE.format(key="lr"): "lr_schedule",
        _SCHEDULE.format(key="entropy_coeff"): "entropy_coeff_schedule",
        "leave it out": "simple_optimizer always_attach_evaluation_results",
        "write the network's sizes as top-level keys, such as 'embed_dim: 64' (in Python "
        "`config.network(embed_dim=64)`; for RLlib's own algorithms `config.rl_module(...)`)": """
            model model_config model_config_dict""",
        "leave it out: MAT, MAM and MARWKV share layers, and MAPPO, HAPPO, IPPO and MATDec do not": "vf_share_layers",
        "leave it out: it is always on": "_enable_rl_module_api _enable_learner_api _enable_new_api_stack",
        _TEAM: "multiagent policies policy_mapping_fn policies_to_train",
        # evaluation and reporting
        "write 'evaluation_duration' and 'evaluation_duration_unit: episodes' instead": "evaluation_num_episodes",
        "use `rllib evaluate CHECKPOINT --render out.gif`": "monitor record_env render_env",
    },
)
"""Options of the old API stack and of earlier versions, for every algorithm."""

UNUSED_OPTIONS = _advice(
    {
        "worker_cls": "env_runner_cls",
        "custom_async_evaluation_function": "custom_evaluation_function",
        "enable_async_evaluation": "evaluation_parallel_to_training",
        "output_max_file_size": "output_max_rows_per_file",
    },
    {
        "leave it out": """
            auto_wrap_old_gym_envs compress_observations env_runner_state_server_max_concurrency
            use_env_runner_state_server fake_sampler remote_env_batch_wait_ms sampler_perf_stats_ema_coef
            _disable_action_flattening _disable_execution_plan_api _disable_initialize_loss_from_dummy_batch
            _disable_preprocessor_api""",
        # sampling
        "leave it out: `JointEnv` finds the environment's action masks": "action_mask_key",
        "leave it out, or clip in the environment: returns are normalized already ('use_value_norm')": "clip_rewards",
        "leave it out: there are no optional checks while stepping": "disable_env_checking",
        "set tasks from a callback with `env_runner_group.foreach_env(lambda env: env.set_task(...))`": "env_task_fn",
        "leave it out: samples are arrays": "episodes_to_numpy",
        "set variables with `ray.init(runtime_env={'env_vars': {...}})`": """
            extra_python_environs_for_driver extra_python_environs_for_worker""",
        "use an `env_to_module_connector`, or change observations in the environment": "observation_fn",
        "leave it out: connector states are always synchronized (see 'merge_env_runner_states')": """
            synchronize_filters update_worker_filter_stats use_worker_filter_stats""",
        "leave it out: the environment's own spaces are used": "action_space observation_space",
        # learning
        "set these options on the algorithm itself: there is one module": "algorithm_config_overrides_per_module",
        "leave it out: a step is one step of the whole team": "count_steps_by",
        "leave it out: each agent's ratio is clipped instead (see 'clip_param'), and `approx_kl` is reported": """
            kl_coeff kl_target""",
        "leave it out: Adam is used (see 'lr' and 'adam_epsilon')": "optimizer",
        "leave it out: PPO has no aggregator actors": """
            max_requests_in_flight_per_aggregator_actor num_aggregator_actors_per_learner""",
        "leave it out: the joint policy is trainable": "checkpoint_trainable_policies_only",
        "leave it out: every checkpoint holds the policy as safetensors and JSON": "export_native_model_files",
        _TEAM: "policy_map_cache policy_map_capacity policy_states_are_swappable",
        "leave it out: PPO has no replay buffer": """
            buffer_size learning_starts prioritized_replay prioritized_replay_alpha prioritized_replay_beta
            prioritized_replay_eps replay_batch_size replay_mode replay_sequence_length""",
        # the machine
        "leave it out: set 'num_gpus_per_learner' to 0 where there is no GPU": "_fake_gpus",
        "leave it out: Ray's dashboard shows resource usage": "log_sys_usage",
        "leave it out: networks are torch modules": """
            eager_max_retraces eager_tracing enable_tf1_exec_eagerly local_tf_session_args tf_session_args
            _tf_policy_handles_more_than_one_loss""",
        # evaluation, reporting and recording
        "log metrics with the `metrics_logger` of callbacks": "keep_per_episode_custom_metrics",
        "use 'output_write_method_kwargs' and the other 'output_...' options": "output_config",
        "leave it out: teams learn from the environment only (RLlib's BC, MARWIL and CQL learn offline, but for a "
        "single agent)": """
            actions_in_input_normalized dataset_num_iters_per_learner ignore_final_observation
            input_ input_compress_columns input_config input_filesystem input_filesystem_kwargs
            input_read_batch_size input_read_episodes input_read_method input_read_method_kwargs
            input_read_sample_batches input_read_schema input_spaces_jsonable
            iter_batches_kwargs map_batches_kwargs materialize_data materialize_mapped_data
            offline_data_class offline_sampling postprocess_inputs prelearner_buffer_class
            prelearner_buffer_kwargs prelearner_class prelearner_module_synch_period
            prelearner_use_recorded_module_states shuffle_buffer_size""",
        "leave it out: policies are evaluated in the environment (see 'evaluation_interval')": """
            broadcast_offline_eval_runner_states custom_resources_per_offline_eval_runner
            dataset_num_iters_per_eval_runner ignore_offline_eval_runner_failures input_evaluation
            max_num_offline_eval_runner_restarts max_requests_in_flight_per_offline_eval_runner
            num_cpus_per_offline_eval_runner num_gpus_per_offline_eval_runner num_offline_eval_runners
            off_policy_estimation_methods offline_eval_batch_size_per_runner
            offline_eval_rl_module_inference_only offline_eval_runner_class
            offline_eval_runner_health_probe_timeout_s offline_eval_runner_restore_timeout_s
            offline_evaluation_duration offline_evaluation_interval offline_evaluation_parallel_to_training
            offline_evaluation_timeout_s offline_evaluation_type offline_loss_for_module_fn
            ope_split_batch_by_episode restart_failed_offline_eval_runners
            validate_offline_eval_runners_after_construction callbacks_on_evaluate_offline_end
            callbacks_on_evaluate_offline_start callbacks_on_offline_eval_runners_recreated""",
    },
)
"""Options that only other RLlib algorithms use or that RLlib itself ignores."""
