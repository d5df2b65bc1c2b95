"""TensorBoard curves grouped as team, loss, time and evaluation; all other metrics keep RLlib's names."""

import re
from typing import Any

import numpy as np
from ray.tune.logger import TBXLoggerCallback
from ray.tune.utils import flatten_dict
from tensorboardX.summary import hparams

from rllib_seqmarl.experiments.metrics import ENV_STEPS, metric

_POLICY = "learners/default_policy/"

# The first pattern that matches the full name determines the tag.
_TAGS = [
    (r"evaluation/env_runners/episode_return_mean", "evaluation/return"),
    (r"evaluation/env_runners/(win_rate|episode_return_max|episode_return_min|episode_len_mean)", r"evaluation/\1"),
    (r"env_runners/episode_return_mean", "team/return"),
    (r"env_runners/episode_return_(min|max)", r"team/return_\1"),
    (r"env_runners/episode_len_mean", "team/episode_length"),
    (r"env_runners/agent_episode_returns_mean/(.+)", r"team/return_of/\1"),
    (r"env_runners/(win_rate|num_episodes_lifetime)", r"team/\1"),
    (_POLICY + "policy_loss", "loss/policy"),
    (_POLICY + "vf_loss", "loss/value"),
    (_POLICY + "total_loss", "loss/total"),
    (_POLICY + "gradients_default_optimizer_global_norm", "loss/gradient_norm"),
    (_POLICY + r"gradients_(\w+)_optimizer_global_norm", r"loss/gradient_norm_\1"),
    (_POLICY + "(entropy|approx_kl|clip_fraction|vf_explained_var)", r"loss/\1"),
    (_POLICY + "default_optimizer_learning_rate", "loss/learning_rate"),
    (_POLICY + r"(\w+)_optimizer_learning_rate", r"loss/learning_rate_\1"),
    (r"(?:env_runners/)?seconds/(.+)", r"time/\1"),
    (r"timers/(.+)", r"time/timers/\1"),
    (r"time_this_iter_s", "time/iteration"),
    (r"(time_total_s|time_since_restore)", r"time/\1"),
    (r"perf/(.+)", r"system/\1"),
]
_LEFT_OUT = {"config", "pid", "timestamp", "done", "training_iteration", "iterations_since_restore"}


def tag(name: str) -> str:
    """Return the tag for a metric's name in a training result ("a/b/c")."""
    for pattern, replacement in _TAGS:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return name


class TensorBoard(TBXLoggerCallback):
    """Tune's TensorBoard logger with grouped tags over env steps, and with hyperparameters of single runs.

    Used by `rllib train`. In your own program, pass `callbacks=[TensorBoard()]` to Tune's `RunConfig` to replace Tune's
    default logger.
    """

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        if trial not in self._trial_writer:
            self.log_trial_start(trial)
        step = int(metric(result, ENV_STEPS) or result["training_iteration"])
        flat = flatten_dict({key: value for key, value in result.items() if key not in _LEFT_OUT}, delimiter="/")
        scalars = {
            tag(name): float(value)
            for name, value in flat.items()
            if isinstance(value, int | float | np.number) and not isinstance(value, bool) and np.isfinite(value)
        }
        for name, value in scalars.items():
            self._trial_writer[trial].add_scalar(name, value, global_step=step)
        self._trial_result[trial] = scalars
        self._trial_writer[trial].flush()

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        if trial in self._trial_writer and self._trial_result[trial] and not trial.evaluated_params:
            plain = {
                key: value if isinstance(value, str | bool | int | float) else str(value)
                for key, value in flatten_dict(trial.config).items()
                if value is not None
            }
            for summary in hparams(hparam_dict=plain, metric_dict=self._trial_result[trial]):
                self._trial_writer[trial].file_writer.add_summary(summary)
        super().log_trial_end(trial, failed)
