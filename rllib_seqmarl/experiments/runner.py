"""Runs an experiment with Ray Tune, and says what came of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.registry import get_trainable_cls

from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.experiment import Experiment
from rllib_seqmarl.experiments.failures import root_message
from rllib_seqmarl.experiments.progress import Progress
from rllib_seqmarl.experiments.ray_session import RaySession
from rllib_seqmarl.experiments.search_space import corners

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A trial that ended with an error.

    Attributes:
        message: What it said.
        error: The error itself.
        checkpoint: The trial's last checkpoint; None if it had none yet.
        error_file: Where the whole traceback is.
    """

    message: str
    error: BaseException
    checkpoint: str | None
    error_file: str


@dataclass(frozen=True)
class Outcome:
    """What came of an experiment.

    Attributes:
        experiment: The experiment.
        path: Its results' folder.
        results: Tune's results, one a trial.
        failures: The trials that ended with an error.
        interrupted: Whether it was stopped before its end (Ctrl-C).
    """

    experiment: Experiment
    path: str
    results: tune.ResultGrid
    failures: list[Failure]
    interrupted: bool


def run_experiment(experiment: Experiment, session: RaySession, resume: bool = False) -> Outcome:
    """Runs all trials of an experiment.

    Args:
        experiment: A checked experiment.
        session: Where; used if this process has no Ray yet.
        resume: Whether to go on with the experiment of the same name and storage path, if there is one:
            trials that did not finish, or failed, continue from their last checkpoints.

    Returns:
        What came of it, failed trials included.
    """
    with session.open():
        results = _tuner(experiment, session.verbose, resume).fit()
    failures = [
        Failure(
            message=root_message(result.error),
            error=result.error,
            checkpoint=result.checkpoint.path if result.checkpoint else None,
            error_file=str(Path(result.path) / "error.txt"),
        )
        for result in results
        if result.error
    ]
    # Tune marks an interrupted run's trials as terminated; that they were not done is in their last results.
    ended = sum(bool(result.error or (result.metrics or {}).get("done")) for result in results)
    expected = experiment.num_trials or len(results)
    interrupted = ended < expected and experiment.time_budget_s is None
    return Outcome(experiment, results.experiment_path, results, failures, interrupted)


def _tuner(experiment: Experiment, verbose: int, resume: bool) -> tune.Tuner:
    storage = Path(experiment.storage_path or "~/ray_results").expanduser()
    # A bucket's address stays as it is; a folder of this machine must be absolute for Tune.
    storage_path = str(experiment.storage_path) if "://" in str(experiment.storage_path) else str(storage.absolute())
    folder = f"{storage_path}/{experiment.name}"
    if resume and tune.Tuner.can_restore(folder):
        return tune.Tuner.restore(folder, trainable=experiment.run, resume_errored=True)
    if resume:
        logger.info("%s: nothing to resume in %s; starting anew", experiment.name, folder)
    metric, mode = experiment.metric
    search, checkpoints = experiment.search, experiment.checkpoints
    return tune.Tuner(
        experiment.run,
        param_space=_param_space(experiment),
        tune_config=tune.TuneConfig(
            metric=metric,
            mode=mode,
            num_samples=experiment.num_samples,
            max_concurrent_trials=(search and search.max_concurrent) or experiment.max_concurrent_trials,
            time_budget_s=experiment.time_budget_s,
            search_alg=search.build() if search else None,
            scheduler=experiment.scheduler.build() if experiment.scheduler else None,
            trial_dirname_creator=_trial_folder,
        ),
        run_config=tune.RunConfig(
            name=experiment.name,
            storage_path=storage_path,
            stop=experiment.stop,
            verbose=verbose,
            callbacks=[Progress(experiment.name, experiment.num_trials, experiment.stop)],
            failure_config=tune.FailureConfig(max_failures=experiment.max_failures),
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=checkpoints.keep,
                checkpoint_frequency=checkpoints.frequency,
                checkpoint_at_end=checkpoints.at_end,
                checkpoint_score_attribute=checkpoints.score_attribute,
                checkpoint_score_order=checkpoints.score_order,
            ),
        ),
    )


def _trial_folder(trial: Any) -> str:
    """A trial folder's name; Tune's own would hold all of a sweep's parameters."""
    return f"{trial.trainable_name}_{trial.trial_id}"


def _param_space(experiment: Experiment) -> dict[str, Any]:
    space = dict(experiment.config)
    if "initial_policy" in space:
        space["initial_policy"] = _absolute(space["initial_policy"])  # trials run in folders of their own
    if experiment.restore is not None:
        space["callbacks_on_algorithm_init"] = partial(_start_from, str(Path(experiment.restore).absolute()))
    return space


def _absolute(path: Any) -> Any:
    """A path, or all paths of a grid search, as absolute ones."""
    if isinstance(path, dict):
        return {key: [_absolute(choice) for choice in choices] for key, choices in path.items()}
    return str(Path(path).expanduser().absolute()) if isinstance(path, str) else path


def _start_from(checkpoint: str, *, algorithm: Any, **kwargs: Any) -> None:
    algorithm.restore_from_path(checkpoint)


def check_runnable(experiments: Sequence[Experiment], session: RaySession) -> None:
    """Refuses experiments that cannot start here, before Ray is started.

    Raises:
        ExperimentError: two have one name and folder, a checkpoint to start from is not there, or a trial
            would wait for CPUs or GPUs for ever.
    """
    folders = [(experiment.storage_path, experiment.name) for experiment in experiments]
    for experiment, folder in zip(experiments, folders, strict=True):
        if folders.count(folder) > 1:
            raise ExperimentError(
                f"two experiments are called '{experiment.name}', and their results would mix; rename one."
            )
        _check_one(experiment, session.capacity())


def _check_one(experiment: Experiment, capacity: dict[str, float] | None) -> None:
    if experiment.restore and not Path(experiment.restore).is_dir():
        raise ExperimentError(f"restore: there is no checkpoint folder {experiment.restore}.")
    if capacity is None:
        return
    config = next(corners(experiment.config))
    needed = get_trainable_cls(experiment.run).default_resource_request(config).required_resources
    remedies = {
        "CPU": "lower num_env_runners, or let Ray count more with --ray-num-cpus {:g}",
        "GPU": "set num_gpus_per_learner: 0 to train on the CPU",
    }
    for kind, remedy in remedies.items():
        if needed.get(kind, 0) > capacity[kind]:
            raise ExperimentError(
                f"{experiment.name}: a trial needs {needed[kind]:g} {kind}s, but there are "
                f"{capacity[kind]:g}; {remedy.format(needed[kind])}."
            )
