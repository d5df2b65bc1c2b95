"""Runs an experiment with Ray Tune, and says what came of it."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayError
from ray.train._internal.storage import get_fs_and_path
from ray.tune import TuneError
from ray.tune.registry import get_trainable_cls

from rllib_seqmarl.experiments import results_folder
from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.experiment import Experiment
from rllib_seqmarl.experiments.experiment_record import write_record
from rllib_seqmarl.experiments.failures import driver_message, trial_message
from rllib_seqmarl.experiments.progress import Progress
from rllib_seqmarl.experiments.ray_session import RaySession
from rllib_seqmarl.experiments.result_files import ResultFiles
from rllib_seqmarl.experiments.results_folder import is_remote, only_run, storage_root
from rllib_seqmarl.experiments.resume import SavedRun
from rllib_seqmarl.experiments.search_space import corners
from rllib_seqmarl.experiments.stopping import Stopping
from rllib_seqmarl.experiments.tensorboard import TensorBoard
from rllib_seqmarl.experiments.trial_files import find_checkpoint

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
    """The outcome of an experiment.

    Attributes:
        experiment: The experiment.
        path: Its results' folder.
        results: Tune's results, one a trial.
        failures: The trials that ended with an error.
        interrupted: Whether it was stopped before its end.
        signum: The signal that stopped it, such as SIGINT for Ctrl-C; None if none did.
    """

    experiment: Experiment
    path: str
    results: tune.ResultGrid
    failures: list[Failure]
    interrupted: bool
    signum: int | None = None


def run_experiment(experiment: Experiment, session: RaySession, resume: bool = False) -> Outcome:
    """Runs all trials of an experiment.

    Args:
        experiment: A checked experiment.
        session: Where; used if this process has no Ray yet.
        resume: Whether to go on with the experiment of the same name and storage path, if there is one. Trials that
            did not finish, failed, or have not reached the experiment's stop criteria, which may be new, continue
            from their last checkpoints, with the experiment's config.

    Returns:
        What came of it, failed trials included.

    Raises:
        ExperimentError: The folder is in use, holds another run's results or cannot be written to, or something differs
            from the run to resume that cannot be changed.
    """
    check_folder(experiment, resume)
    with ExitStack() as stack:
        if not is_remote(experiment.storage_path):
            stack.enter_context(only_run(Path(_folder(experiment))))
        saved = SavedRun(experiment, _folder(experiment)) if resume else None
        if saved is not None and not saved.exists:
            logger.info("%s: nothing to resume in %s; starting a new run", experiment.name, _folder(experiment))
            saved = None
        stack.enter_context(session.open())
        stopping = Stopping(
            experiment.stop,
            late=any(key.startswith("callbacks") for key in experiment.config),
            resumed=saved.trial_ids if saved else (),
        )
        try:
            with stopping.signals():
                results = _tuner(experiment, session.verbose, stopping, saved).fit()
        except (TuneError, RayError, OSError) as error:
            raise ExperimentError(driver_message(error, _folder(experiment))) from error
    if stopping.problem is not None:
        raise ExperimentError(stopping.problem)
    failures = [
        Failure(
            message=trial_message(result.error, _folder(experiment)),
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
    interrupted = ended < expected and (stopping.signum is not None or experiment.time_budget_s is None)
    return Outcome(experiment, results.experiment_path, results, failures, interrupted, stopping.signum)


def _folder(experiment: Experiment) -> str:
    return f"{storage_root(experiment.storage_path)}/{experiment.name}"


def check_folder(experiment: Experiment, resume: bool) -> None:
    """Refuses to start an experiment whose results' folder is not writable, is in use, or holds other results.

    Raises:
        ExperimentError: With the remedy.
    """
    if not is_remote(experiment.storage_path):
        results_folder.check_folder(Path(_folder(experiment)), experiment.name, resume)
    elif not resume and tune.Tuner.can_restore(_folder(experiment)):
        raise ExperimentError(
            f"{_folder(experiment)} holds results already: continue that run with --resume, or choose another name."
        )


def check_startable(experiments: Sequence[Experiment], resume: bool) -> None:
    """Refuses experiments whose results' folders are not fit for a new run, or for the run to resume.

    Raises:
        ExperimentError: As `run_experiment`.
    """
    for experiment in experiments:
        check_folder(experiment, resume)
        if resume:
            SavedRun(experiment, _folder(experiment))


def _tuner(experiment: Experiment, verbose: int, stopping: Stopping, saved: SavedRun | None) -> tune.Tuner:
    metric, mode = experiment.metric
    search, space = experiment.search, _param_space(experiment)
    checkpoints = tune.CheckpointConfig(
        num_to_keep=experiment.checkpoints.keep,
        checkpoint_frequency=experiment.checkpoints.frequency,
        checkpoint_at_end=experiment.checkpoints.at_end,
        checkpoint_score_attribute=experiment.checkpoints.score_attribute,
        checkpoint_score_order=experiment.checkpoints.score_order,
    )
    if saved is not None:
        saved.bring_up_to_date(space, checkpoints)
    resume = tune.ResumeConfig(errored=tune.ResumeConfig.ResumeType.RESUME)
    tuner = tune.Tuner(
        experiment.run,
        param_space=space,
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
            storage_path=storage_root(experiment.storage_path),
            stop=experiment.stop,
            verbose=verbose,
            callbacks=[
                Progress(experiment.name, experiment.num_trials, experiment.stop),
                stopping,
                ResultFiles(),
                TensorBoard(),
            ],
            failure_config=tune.FailureConfig(max_failures=experiment.max_failures),
            checkpoint_config=checkpoints,
        ),
        _tuner_kwargs={"resume_config": resume} if saved is not None else None,
    )
    write_record(experiment, *get_fs_and_path(_folder(experiment)))
    return tuner


def _trial_folder(trial: Any) -> str:
    """A trial folder's name; Tune's own would hold all of a sweep's parameters."""
    return f"{trial.trainable_name}_{trial.trial_id}"


def _param_space(experiment: Experiment) -> dict[str, Any]:
    space = dict(experiment.config)
    if "initial_policy" in space:
        space["initial_policy"] = _absolute(space["initial_policy"])  # trials run in folders of their own
    if experiment.restore is not None:
        space["callbacks_on_algorithm_init"] = partial(
            _start_from, str(find_checkpoint(Path(experiment.restore)).absolute())
        )
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
        ExperimentError: Two have one name and folder, a checkpoint to start from is not there, or a trial
            would wait for CPUs or GPUs without end.
    """
    folders = [(experiment.storage_path, experiment.name) for experiment in experiments]
    for experiment, folder in zip(experiments, folders, strict=True):
        if folders.count(folder) > 1:
            raise ExperimentError(
                f"two experiments are called '{experiment.name}', and their results would mix; rename one."
            )
        _check_one(experiment, session.capacity())


def _check_one(experiment: Experiment, capacity: dict[str, float] | None) -> None:
    if experiment.restore is not None:
        _check_restorable(experiment.restore, experiment.run)
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


def _check_restorable(path: str, run: str) -> None:
    """Refuses to start trials from what is no checkpoint of their algorithm."""
    checkpoint = find_checkpoint(Path(path))
    try:
        with (checkpoint / "class_and_ctor_args.pkl").open("rb") as file:
            found = pickle.load(file)["class"]
    except FileNotFoundError:
        raise ExperimentError(f"restore: {checkpoint} is not a checkpoint of an RLlib algorithm.") from None
    except Exception as error:  # of any kind: unpickling runs code
        raise ExperimentError(f"restore: checkpoint {checkpoint} is damaged ({type(error).__name__}).") from error
    wanted = get_trainable_cls(run)
    if found is not wanted:
        name = getattr(found, "__name__", str(found))
        raise ExperimentError(f"restore: {checkpoint} is a checkpoint of {name}, not of {wanted.__name__}.")
