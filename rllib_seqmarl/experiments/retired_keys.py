"""Keys that people know from earlier versions of Ray, and what to write instead."""

_SCHEDULE = "write the schedule itself, as in '{key}: [[0, 1e-3], [1000000, 1e-4]]'"
_TEAM = "leave it out: one joint policy acts for the whole team (for independent policies use RLlib from Python)"
_MODEL = (
    "write the network's sizes as keys of their own, such as 'embed_dim: 64' (for RLlib's own algorithms: "
    "set them from Python with `config.rl_module(...)`)"
)


def _write(key: str) -> str:
    return f"write '{key}' instead"


RETIRED_CONFIG_KEYS: dict[str, str] = {
    # sampling
    "num_workers": _write("num_env_runners"),
    "num_rollout_workers": _write("num_env_runners"),
    "num_envs_per_worker": _write("num_envs_per_env_runner"),
    "num_cpus_per_worker": _write("num_cpus_per_env_runner"),
    "num_gpus_per_worker": _write("num_gpus_per_env_runner"),
    "custom_resources_per_worker": _write("custom_resources_per_env_runner"),
    "validate_workers_after_construction": _write("validate_env_runners_after_construction"),
    "sample_batch_size": _write("rollout_fragment_length"),
    "remote_worker_envs": "write 'gym_env_vectorize_mode: ASYNC' instead",
    "observation_filter": "add a MeanStdFilter with an `env_to_module_connector` from Python",
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
    "simple_optimizer": "leave it out",
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
    "always_attach_evaluation_results": "leave it out",
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

RETIRED_EXPERIMENT_KEYS: dict[str, str] = {
    "resources_per_trial": "RLlib works a trial's resources out from its config: set 'num_env_runners', "
    "'num_cpus_per_env_runner', 'num_learners' and 'num_gpus_per_learner' there",
    "trial_resources": "RLlib works a trial's resources out from its config",
    "upload_dir": "write 'storage_path', which may be s3://..., instead",
    "sync_config": "write 'storage_path', which may be s3://..., instead",
    "export_formats": "leave it out: every checkpoint holds the policy as safetensors and JSON",
    "repeat": "write 'num_samples' instead",
    "search_alg": "write 'search: {algorithm: optuna}' instead",
}
