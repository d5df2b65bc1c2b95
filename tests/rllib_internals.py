"""Every private part of Ray that this package uses, with the reason.

Ray may change them in any release. `test_rllib_internals.py` checks them against the installed version, and that
the list is complete; after an upgrade of Ray it says what to adapt.
"""

from __future__ import annotations

from typing import NamedTuple


class Internal(NamedTuple):
    """A private attribute, method or function of Ray.

    Attributes:
        name: Its name.
        why: Why it is used, or overridden.
        parameters: For a function, parameters that this package passes or accepts.
    """

    name: str
    why: str
    parameters: tuple[str, ...] = ()


RLLIB_INTERNALS: dict[str, list[Internal]] = {
    # learners/
    "ray.rllib.core.learner.torch.torch_learner:TorchLearner": [
        Internal("_uncompiled_update", "overridden to compute gradients slice by slice", ("batch",)),
        Internal(
            "_create_iterator_if_necessary",
            "overridden to make minibatches by index, and to update agents one after another",
            ("training_data", "num_total_minibatches", "num_epochs", "minibatch_size", "shuffle_batch_per_epoch"),
        ),
        Internal("_make_batch_if_necessary", "overridden to make batches of rollouts", ("training_data",)),
        Internal("_compute_off_policyness", "logged by RLlib's update, which is overridden", ("batch",)),
        Internal("_set_optimizer_state", "overridden to keep the config's settings after a restore", ("state",)),
        Internal("_set_optimizer_lr", "sets scheduled learning rates before the first update", ("optimizer", "lr")),
        Internal("_optimizer_lr_schedules", "the schedules of learning rates"),
        Internal("_lr_scheduler_classes", "whether torch's schedulers set learning rates instead"),
        Internal("_named_optimizers", "the optimizers, to step them and to restore their state"),
        Internal("_params", "the parameters by reference, whose gradients are computed"),
        Internal("_module", "the module while optimizers are configured"),
        Internal("_grad_scalers", "whether gradients are scaled, and checked by their scaler"),
        Internal("_learner_connector", "the learner pipeline, whose last connectors are replaced"),
        Internal("_optimizer_parameters", "the parameters of each optimizer, of which a minibatch may update some"),
        Internal("_weights_seq_no", "the number of updates: the age of samples, and the return to a checkpoint"),
        Internal("_torch_compile_forward_train", "whether the module is compiled, which RLlib skips for this module"),
        Internal("_torch_compile_cfg", "the settings of this compilation"),
    ],
    "ray.rllib.core.learner.learner_group:LearnerGroup": [
        Internal("_worker_manager", "the number of healthy learners: RLlib goes on without the others"),
    ],
    # env_runners/
    "ray.rllib.env.single_agent_env_runner:SingleAgentEnvRunner": [
        Internal(
            "_sample",
            "overridden to write rollouts",
            ("num_timesteps", "num_episodes", "explore", "random_actions", "force_reset"),
        ),
        Internal("_try_env_reset", "overridden to pass seeds to first resets only", ("seed", "options")),
        Internal("_needs_initial_reset", "whether the next sample begins with a reset"),
        Internal("_env_to_module", "the pipeline, whose connectors decide which loop samples"),
        Internal("_module_to_env", "the pipeline, which fits actions to their bounds"),
        Internal("_callbacks", "the user's callbacks, which decide which loop samples"),
        Internal("_weights_seq_no", "the age of the weights that acted"),
        Internal("_log_env_steps", "counts steps", ("metric", "num_steps")),
        Internal("_metrics_num_env_steps_sampled", "the metric of steps"),
        Internal("_increase_sampled_metrics", "counts steps and episodes", ("num_steps", "num_episodes_completed")),
        Internal("_log_episode_metrics", "logs finished episodes", ("length", "ret", "sec")),
    ],
    "ray.experimental.internal_kv": [
        Internal("_internal_kv_put", "posts errors of environments for the algorithm", ("key", "value", "namespace")),
        Internal("_internal_kv_get", "reads them", ("key", "namespace")),
        Internal("_internal_kv_del", "clears them", ("key", "namespace")),
    ],
    "ray._private.state": [
        Internal("actors", "how often an env runner was restarted, for its seeds", ("actor_id",)),
        Internal("jobs", "the command of a job, for the record of a run"),
    ],
    # modules/
    "ray.rllib.core.rl_module.torch.torch_rl_module:TorchRLModule": [
        Internal("_forward_exploration", "RLlib's own extension point", ("batch",)),
        Internal("_forward_inference", "RLlib's own extension point", ("batch",)),
        Internal("_forward_train", "RLlib's own extension point", ("batch",)),
    ],
    "ray.rllib.connectors.env_to_module.mean_std_filter:MeanStdFilter": [
        Internal("_init_new_filters", "overridden to make one filter per agent"),
        Internal("_update_stats", "copied to the team's filter"),
        Internal("_filters", "the filters"),
    ],
    # algorithms/
    "ray.rllib.algorithms.ppo.ppo:PPOConfig": [
        Internal("_model_config_auto_includes", "RLlib's own extension point"),
        Internal("_env_to_module_connector", "whether the user adds connectors"),
        Internal("_module_to_env_connector", "whether the user adds connectors"),
        Internal("_learner_connector", "whether the user adds connectors"),
        Internal("_learner_class", "the user's class, to check its base"),
        Internal("_rl_module_spec", "the user's module, to check its base"),
        Internal("_model_config", "the user's entries, to check their names"),
        Internal("_validate_config", "whether options are checked"),
        Internal("_translate_special_keys", "current names of options", ("key", "warn_deprecated")),
    ],
    "ray.rllib.algorithms.algorithm:Algorithm": [
        Internal("_get_env_id_and_creator", "overridden for environments with options", ("env_specifier", "config")),
        Internal("_storage", "the trial's folder, for the record of a run"),
    ],
    # registry.py, experiments/
    "ray._private.worker": [
        Internal("_post_init_hooks", "registers environments and algorithms in every process of Ray"),
        Internal("print_to_stdstream", "shortens messages of workers", ("data",)),
    ],
    "ray.train._internal.storage": [
        Internal("get_fs_and_path", "the file system of a storage path", ("storage_path",)),
    ],
    "ray.tune.experiment.trial:Trial": [
        Internal("_Trial__unresolved_config", "changed options of a resumed trial"),
    ],
    "ray.train._internal.checkpoint_manager:_CheckpointManager": [
        Internal("_checkpoint_config", "how many checkpoints a resumed trial keeps"),
        Internal("_checkpoint_results", "a resumed trial's checkpoints, without missing ones"),
        Internal("_latest_checkpoint_result", "the checkpoint that a resumed trial continues from"),
    ],
    "ray.tune.execution.tune_controller:TuneController": [
        Internal("_stopper", "when a resumed experiment stops"),
    ],
    "ray.tune.logger.csv:CSVLoggerCallback": [
        Internal("_setup_trial", "opens a trial's file, to write the header of all its results", ("trial",)),
        Internal("_trial_files", "the open files"),
        Internal("_trial_csv", "their writers"),
        Internal("_trial_continue", "whether a file is continued"),
    ],
    "ray.tune.logger.tensorboardx:TBXLoggerCallback": [
        Internal("_trial_writer", "the writers of trials"),
        Internal("_trial_result", "the last results of trials"),
    ],
    "ray.tune.schedulers.pbt:PopulationBasedTraining": [
        Internal("_resample_probability", "checks whether mutations are perturbed"),
        Internal("_perturbation_factors", "checks by how much"),
    ],
}
