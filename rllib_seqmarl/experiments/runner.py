"""Execution of experiments with Ray Tune."""

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
from rllib_seqmarl.experiments.results_folder import is_remote, lock_folder, storage_root
from rllib_seqmarl.experiments.resume import SavedRun
from rllib_seqmarl.experiments.search_space import corners
from rllib_seqmarl.experiments.stopping import Stopping
from rllib_seqmarl.experiments.tensorboard import TensorBoard
from rllib_seqmarl.experiments.trial_files import find_checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """The message of a trial that ended with an error, its last checkpoint, if any, and the file of its traceback."""

    message: str
    checkpoint: str | None
    error_file: str


@dataclass(frozen=True)
class Outcome:
    """The outcome of an experiment.

    Attributes:
        experiment: The experiment.
        path: The results folder.
        results: Tune's results, one per trial.
        failures: The trials that ended with an error.
        interrupted: Whether the experiment was stopped before its end.
        signum: The signal that stopped it, such as SIGINT for Ctrl-C; None if there was none.
    """

    experiment: Experiment
    path: str
    results: tune.ResultGrid
    failures: list[Failure]
    interrupted: bool
    signum: int | None = None


def run_experiment(experiment: Experiment, session: RaySession, resume: bool = False) -> Outcome:
    """Run all trials of an experiment; the outcome includes those that fail.

    Args:
        experiment: A checked experiment.
        session: The Ray session to open if this process has not initialized Ray.
        resume: Whether to resume the experiment of the same name and storage path, if it exists. Trials that did not
            finish, failed, or have not met the (possibly changed) stop criteria continue from their last checkpoints
            with the experiment's config.

    Raises:
        ExperimentError: The folder is in use, contains another run's results or is not writable, or settings differ
            from the run to resume that cannot be changed.
    """
    check_folder(experiment, resume)
    with ExitStack() as stack:
        if not is_remote(experiment.storage_path):
            stack.enter_context(lock_folder(Path(_folder(experiment))))
        saved = SavedRun(experiment, _folder(experiment)) if resume else None
        if saved is not None and not saved.exists:
            logger.info("%s: nothing to resume in %s; starting a new run", experiment.name, _folder(experiment))
            saved = None
        stack.enter_context(session.open())
        stopping = Stopping(
            experiment.ranking_metrics | dict.fromkeys(experiment.stop, "stop"),
            allow_late=any(key.startswith("callbacks") for key in experiment.config),
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
            checkpoint=result.checkpoint.path if result.checkpoint else None,
            error_file=str(Path(result.path) / "error.txt"),
        )
        for result in results
        if result.error
    ]
    # Tune marks the trials of an interrupted run as terminated; only their last results show that they were not done.
    ended = sum(bool(result.error or (result.metrics or {}).get("done")) for result in results)
    expected = experiment.num_trials or len(results)
    interrupted = ended < expected and (stopping.signum is not None or experiment.time_budget_s is None)
    return Outcome(experiment, results.experiment_path, results, failures, interrupted, stopping.signum)


def _folder(experiment: Experiment) -> str:
    return f"{storage_root(experiment.storage_path)}/{experiment.name}"


def check_folder(experiment: Experiment, resume: bool) -> None:
    """Check that the results folder of an experiment is writable, not in use and without results of another run.

    Raises:
        ExperimentError: A check failed; names the remedy.
    """
    if not is_remote(experiment.storage_path):
        results_folder.check_folder(Path(_folder(experiment)), experiment.name, resume)
        return
    folder = _folder(experiment)
    logger.info("Checking %s ...", folder, extra={"under_way": f"waiting for {folder}"})
    try:
        used = tune.Tuner.can_restore(folder)
    except (OSError, ValueError, ImportError) as error:  # the address, the credentials or the network
        reason = " ".join(str(error).split())
        raise ExperimentError(f"{folder}: results cannot be written there ({reason}).") from error
    if used and not resume:
        raise ExperimentError(
            f"{folder} already contains results: continue that run with --resume, or choose another name."
        )


def check_startable(experiments: Sequence[Experiment], resume: bool) -> None:
    """Check that the results folders of experiments allow starting or resuming them.

    Raises:
        ExperimentError: See `run_experiment`.
    """
    for experiment in experiments:
        check_folder(experiment, resume)
        if resume:
            SavedRun(experiment, _folder(experiment))


def _tuner(experiment: Experiment, verbose: int, stopping: Stopping, saved: SavedRun | None) -> tune.Tuner:
    metric, mode = experiment.metric
    search, space = experiment.search, _param_space(experiment)
    if saved is not None:
        saved.update(space)
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
            # Tune's default contains all parameters of a sweep.
            trial_dirname_creator=lambda trial: f"{trial.trainable_name}_{trial.trial_id}",
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
            checkpoint_config=experiment.checkpoints,
        ),
        _tuner_kwargs={"resume_config": resume} if saved is not None else None,
    )
    write_record(experiment, *get_fs_and_path(_folder(experiment)))
    return tuner


def _param_space(experiment: Experiment) -> dict[str, Any]:
    space = dict(experiment.config)
    if "initial_policy" in space:
        space["initial_policy"] = _make_absolute(space["initial_policy"])  # trials have their own working directories
    if experiment.restore is not None:
        checkpoint = find_checkpoint(Path(experiment.restore)).absolute()
        space["callbacks_on_algorithm_init"] = partial(_start_from, str(checkpoint))
    return space


def _make_absolute(path: Any) -> Any:
    """Make a path, or all paths of a grid search, absolute."""
    if isinstance(path, dict):
        return {key: [_make_absolute(choice) for choice in choices] for key, choices in path.items()}
    return str(Path(path).expanduser().absolute()) if isinstance(path, str) else path


def _start_from(checkpoint: str, *, algorithm: Any, **kwargs: Any) -> None:
    algorithm.restore_from_path(checkpoint)


def check_runnable(experiments: Sequence[Experiment], session: RaySession) -> None:
    """Check that experiments can start on this machine, without starting Ray.

    Raises:
        ExperimentError: Two experiments share a name and folder, a checkpoint to restore is missing, or a trial would
            wait for CPUs or GPUs forever.
    """
    folders = [(experiment.storage_path, experiment.name) for experiment in experiments]
    for experiment, folder in zip(experiments, folders, strict=True):
        if folders.count(folder) > 1:
            raise ExperimentError(
                f"two experiments are named '{experiment.name}', so their results would mix; rename one of them."
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
        "CPU": "lower num_env_runners, or oversubscribe with --ray-num-cpus {:g}",
        "GPU": "set num_gpus_per_learner: 0 to train on the CPU",
    }
    for kind, remedy in remedies.items():
        if needed.get(kind, 0) > capacity[kind]:
            raise ExperimentError(
                f"{experiment.name}: a trial needs {needed[kind]:g} {kind}s, but only {capacity[kind]:g} are "
                f"available; {remedy.format(needed[kind])}."
            )


def _check_restorable(path: str, run: str) -> None:
    """Check that a path is a checkpoint of the given algorithm."""
    checkpoint = find_checkpoint(Path(path))
    try:
        with (checkpoint / "class_and_ctor_args.pkl").open("rb") as file:
            saved_class = pickle.load(file)["class"]
    except FileNotFoundError:
        raise ExperimentError(f"restore: {checkpoint} is not a checkpoint of an RLlib algorithm.") from None
    except Exception as error:  # unpickling may raise anything
        raise ExperimentError(f"restore: checkpoint {checkpoint} is damaged ({type(error).__name__}).") from error
    wanted = get_trainable_cls(run)
    if repr(saved_class) != repr(wanted):  # compares names: Ray derives the classes of actors under the same name
        name = getattr(saved_class, "__name__", str(saved_class))
        raise ExperimentError(f"restore: {checkpoint} is a checkpoint of {name}, not of {wanted.__name__}.")
