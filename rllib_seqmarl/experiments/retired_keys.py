"""Experiment keys of earlier Ray versions, and their replacements."""

RETIRED_EXPERIMENT_KEYS: dict[str, str] = {
    "resources_per_trial": "RLlib computes a trial's resources from its config: set 'num_env_runners', "
    "'num_cpus_per_env_runner', 'num_learners' and 'num_gpus_per_learner' there",
    "trial_resources": "RLlib computes a trial's resources from its config",
    "upload_dir": "write 'storage_path', which may be s3://..., instead",
    "sync_config": "write 'storage_path', which may be s3://..., instead",
    "export_formats": "leave it out: every checkpoint holds the policy as safetensors and JSON",
    "repeat": "write 'num_samples' instead",
    "search_alg": "write 'search: {algorithm: optuna}' instead",
}
