"""The `rllib` command: train from experiment files or options, evaluate checkpoints, list what is available.

Ray and torch are imported only by the commands that need them, so that `rllib --help` responds instantly.
"""

from __future__ import annotations

import logging
import math
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from rllib_seqmarl.version import __version__

if TYPE_CHECKING:
    from rllib_seqmarl.experiments.experiment import Experiment


@contextmanager
def _reporting_errors(show_traceback: bool = False) -> Iterator[None]:
    """Show log messages during the block, and report a user error as a single message."""
    from rllib_seqmarl.experiments.console import Console
    from rllib_seqmarl.experiments.errors import ExperimentError

    try:
        with Console():
            yield
    except ExperimentError as error:
        if show_traceback:
            click.echo(traceback.format_exc(), err=True)
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
        sys.exit(130)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="rllib (rllib_seqmarl)")
def main() -> None:
    """Train and evaluate multi-agent policies with RLlib."""
    # Experiments name modules of the user, which Ray's workers import from the current folder as well.
    if "" not in sys.path:
        sys.path.append("")


_TRACE = click.option("--trace", "--traceback", "trace", is_flag=True, help="Show the full traceback of an error.")

_RUN_OPTIONS = [
    click.option(
        "--resume",
        is_flag=True,
        help="Resume the experiment of the same name from its latest checkpoints; --stop and most of --config may "
        "change. Ray unpickles these files: resume only experiments you trust.",
    ),
    click.option("--num-samples", type=int, help="Number of times to sample the config or repeat the grid."),
    click.option("--local-dir", "--storage-path", help="Where to store results (folder or s3://...). [~/ray_results]"),
    click.option("--checkpoint-freq", type=int, help="Training iterations between checkpoints; 0 for none. [20]"),
    click.option("--checkpoint-at-end/--no-checkpoint-at-end", default=None, help="Write a final checkpoint. [yes]"),
    click.option("--keep-checkpoints-num", type=int, help="How many checkpoints to keep; 0 for all. [2]"),
    click.option(
        "--checkpoint-score-attr", help="Keep the best by this metric ('min-...' for the lowest), not the newest."
    ),
    click.option("--max-failures", type=int, help="How many times to restart a failed trial. [0]"),
    click.option(
        "--restore",
        type=click.Path(),
        help="Start every trial from this checkpoint. Ray unpickles it: use only checkpoints you trust.",
    ),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Seed for training and search."),
    click.option("--ray-address", help="Address of a Ray cluster ('auto' to find a running one)."),
    click.option("--ray-num-cpus", type=click.IntRange(min=1), help="CPUs of a locally started Ray. [all]"),
    click.option("--ray-num-gpus", type=click.IntRange(min=0), help="GPUs of a locally started Ray. [all]"),
    click.option("-v", "--verbose", count=True, help="Show output of Ray Tune and the workers; -vv adds tracebacks."),
    _TRACE,
]


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_RUN_OPTIONS):
        command = option(command)
    return command


@main.group(invoke_without_command=True)
@click.option("--run", "--algo", "run", help="Name of the algorithm; see `rllib list`.")
@click.option("--env", help="Name of the environment; see `rllib list`.")
@click.option("--config", "config_text", default="{}", help="The algorithm's config, as JSON or YAML.")
@click.option("--stop", "stop_text", default="{}", help="Stop criteria, {metric: value}, as JSON or YAML.")
@click.option("--search", "search_text", help="A search block, as JSON or YAML, such as '{algorithm: optuna}'.")
@click.option("--scheduler", "scheduler_text", help="A scheduler, such as asha.")
@click.option("-n", "--experiment-name", help="Name of the experiment and its folder. [algorithm-environment]")
@_run_options
@click.pass_context
def train(
    context: click.Context,
    run: str | None,
    env: str | None,
    config_text: str,
    stop_text: str,
    search_text: str | None,
    scheduler_text: str | None,
    experiment_name: str | None,
    **options: Any,
) -> None:
    """Train from options or files.

    \b
    rllib train file EXP.yaml [EXP.yaml ...]
    rllib train --run MAT --env mpe/simple_spread --stop '{env_steps: 100000}'
    rllib train --run MAT --env mpe/simple_spread --config '{lr: {grid_search: [1e-4, 5e-4]}}'
    """
    if context.invoked_subcommand is not None:
        return
    texts = {"config": config_text, "stop": stop_text, "search": search_text, "scheduler": scheduler_text}

    def experiments() -> list[Experiment]:
        from rllib_seqmarl.experiments.errors import ExperimentError
        from rllib_seqmarl.experiments.experiment import parse_experiment
        from rllib_seqmarl.experiments.plain_yaml import parse_yaml
        from rllib_seqmarl.experiments.results_folder import to_valid_name

        if run is None:
            raise ExperimentError("name an algorithm with --run, or pass a file: rllib train file EXP.yaml.")
        spec: dict[str, Any] = {"run": run} | ({"env": env} if env else {})
        spec |= {key: parse_yaml(text, f"--{key}", numbered=False).value for key, text in texts.items() if text}
        name = to_valid_name(f"{run}-{env or 'training'}") if experiment_name is None else experiment_name
        places = {(): "--run" if experiment_name is None else "--experiment-name"}
        # Errors refer to command-line options instead of file lines.
        return [parse_experiment(name, spec, lambda *path: places.get(path[:1]) or f"--{path[0]}")]

    _train(experiments, **options)


@train.command("file")
@click.argument("files", nargs=-1, required=True)
@_run_options
def train_file(files: tuple[str, ...], **options: Any) -> None:
    """Run the experiments in FILES, one after another. All are checked before the first one starts.

    The package's tuned experiments are referred to by name, such as mat/mpe-simple_spread.
    """

    def experiments() -> list[Experiment]:
        from rllib_seqmarl.experiments.tuned import find_experiments

        return [experiment for file in files for experiment in find_experiments(file)]

    _train(experiments, **options)


def _log_ray_start() -> None:
    logging.getLogger("rllib_seqmarl").info("Starting Ray ...", extra={"under_way": "importing Ray and torch"})


def _train(experiments: Callable[[], list[Experiment]], *, verbose: int, trace: bool, **options: Any) -> None:
    show_traceback = trace or verbose > 1
    with _exit_on_sigterm(), _reporting_errors(show_traceback):
        _log_ray_start()
        from rllib_seqmarl.experiments.ray_session import RaySession
        from rllib_seqmarl.experiments.report import closing_message, results_table
        from rllib_seqmarl.experiments.runner import check_runnable, check_startable, run_experiment

        session = RaySession(options["ray_address"], options["ray_num_cpus"], options["ray_num_gpus"], verbose)
        session.quieten()
        checked = [_override_settings(experiment, options) for experiment in experiments()]
        check_runnable(checked, session)
        check_startable(checked, options["resume"])
        failed = 0
        with session.open():
            for experiment in checked:
                outcome = run_experiment(experiment, session, resume=options["resume"])
                click.echo(f"\n{results_table(outcome)}\n\n{closing_message(outcome)}")
                if show_traceback:
                    for failure in outcome.failures:
                        click.echo(f"\n{Path(failure.error_file).read_text()}", err=True)
                failed += len(outcome.failures)
                if outcome.interrupted:
                    sys.exit(128 + (outcome.signum or signal.SIGINT))
        sys.exit(1 if failed else 0)


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Handle SIGTERM like SIGINT before and after trials run."""

    def terminate(number: int, frame: Any) -> NoReturn:
        click.echo("Terminated.", err=True)
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous_handler = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


def _override_settings(experiment: Experiment, options: dict[str, Any]) -> Experiment:
    """Return the experiment with its settings overridden by command-line options."""
    from rllib_seqmarl.experiments.experiment import parse_checkpoints
    from rllib_seqmarl.experiments.results_folder import check_storage_path
    from rllib_seqmarl.experiments.value_kinds import check_numbers

    def where(*path: Any) -> str:
        return f"--{str(path[0]).replace('_', '-')}"

    given = {key: value for key, value in options.items() if value is not None}
    check_numbers(given, where)
    overrides: dict[str, Any] = {key: given[key] for key in ("num_samples", "max_failures", "restore") if key in given}
    if "local_dir" in given:
        check_storage_path(given["local_dir"], "--local-dir")
        overrides["storage_path"] = given["local_dir"]
    overrides["checkpoints"] = parse_checkpoints(given, where, experiment.checkpoints)
    if "seed" in given:
        overrides["config"] = experiment.config | {"seed": given["seed"]}
        overrides["search"] = experiment.search and replace(experiment.search, seed=given["seed"])
    return replace(experiment, **overrides)


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--episodes", type=click.IntRange(min=1), default=10, show_default=True, help="Number of episodes.")
@click.option("--explore", is_flag=True, help="Sample actions instead of taking the most probable ones.")
@click.option("--render", type=click.Path(path_type=Path), help="Write the first episode as an animation (.gif).")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Episode i is reset with seed + i."
)
@click.option("--env", help="Use this environment instead of the training environment.")
@click.option("--env-config", "env_config_text", default="{}", help="Options of the environment, as JSON or YAML.")
@_TRACE
def evaluate(
    checkpoint: Path,
    episodes: int,
    explore: bool,
    render: Path | None,
    seed: int,
    env: str | None,
    env_config_text: str,
    trace: bool,
) -> None:
    """Play episodes with a trained team.

    CHECKPOINT is the folder of a checkpoint, of a trial (uses its newest checkpoint) or of an experiment (uses the
    newest checkpoint of its best trial).
    """

    with _reporting_errors(trace):
        from rllib_seqmarl.experiments.animation import write_gif
        from rllib_seqmarl.experiments.errors import ExperimentError
        from rllib_seqmarl.experiments.evaluation import PARALLEL_EPISODES, load_policy, policy_env
        from rllib_seqmarl.experiments.evaluation import evaluate as play
        from rllib_seqmarl.experiments.plain_yaml import parse_yaml
        from rllib_seqmarl.experiments.results_folder import check_output_file
        from rllib_seqmarl.experiments.trial_files import find_checkpoint

        if render is not None:
            check_output_file(render, "--render", (".gif",))
        env_config = parse_yaml(env_config_text, "--env-config", numbered=False).value
        if not isinstance(env_config, dict):
            raise ExperimentError(f"--env-config: must be a mapping, such as '{{N: 5}}'; got {env_config!r}.")
        found = find_checkpoint(checkpoint)
        policy = load_policy(found)
        joint_env = policy_env(
            policy,
            env,
            env_config,
            num_envs=1 if render else min(episodes, PARALLEL_EPISODES),
            render=render is not None,
        )
        click.echo(f"{found}\n{joint_env.name}: {episodes} episodes, {'sampled' if explore else 'greedy'} actions")
        evaluation = play(policy, joint_env, episodes, explore=explore, seed=seed, draw=int(render is not None))
        click.echo(evaluation.summary())
        if render is not None:
            write_gif(evaluation.frames, render)
            click.echo(f"Animation of the first episode: {render}")


@main.command()
@click.argument("file")
@click.option("--iterations", type=click.IntRange(min=1), default=5, show_default=True, help="Iterations to measure.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write the figure. [EXPERIMENT-profile.png]")
@_TRACE
def profile(file: str, iterations: int, out: Path | None, trace: bool) -> None:
    """Show where the time of a training iteration goes.

    FILE is an experiment file or the name of a tuned experiment, such as mam/smax-2s3z. If it has several experiments,
    a search or a grid, the first config is run. Only the figure is kept.
    """

    with _reporting_errors(trace):
        _log_ray_start()
        from rllib_seqmarl.experiments.profile import plot_profile, profile_experiment
        from rllib_seqmarl.experiments.ray_session import RaySession
        from rllib_seqmarl.experiments.results_folder import check_output_file
        from rllib_seqmarl.experiments.runner import check_runnable
        from rllib_seqmarl.experiments.tuned import find_experiments

        if out is not None:
            check_output_file(out, "--out", (".png", ".svg", ".pdf"))
        session = RaySession()
        session.quieten()
        experiment = find_experiments(file)[0]
        check_runnable([experiment], session)
        with session.open():
            measured = profile_experiment(experiment, iterations, click.echo)
        speed = measured.env_steps / measured.total
        title = f"{experiment.name}: {speed:,.0f} env steps/s"
        click.echo(f"\n{title}\n\n{measured.table()}")
        if measured.note:
            click.echo(f"\n{measured.note}")
        picture = out or Path(f"{experiment.name.replace('/', '-')}-profile.png")
        plot_profile(measured, picture, title)
        click.echo(f"\nPicture: {picture}")


@main.command("list")
@click.argument("word", default="")
def list_command(word: str) -> None:
    """List algorithms, environments and tuned experiments.

    Environments are listed with their agents, observations, actions and requirements. With WORD, only names that
    contain it are listed, in more detail.
    """

    with _reporting_errors():
        from rllib_seqmarl.experiments.inventory import inventory

        click.echo(inventory(word))


def _check_finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.")
    return value


@main.command()
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.01),
    callback=_check_finite,
    default=4.0,
    show_default=True,
    help="How long to train.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Stop after this many env steps if that comes first.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("results/quickstart"), show_default=True
)
@_TRACE
def quickstart(minutes: float, steps: int | None, out: Path, trace: bool) -> None:
    """Train a team in minutes and watch it play."""

    with _reporting_errors(trace):
        _log_ray_start()
        from rllib_seqmarl.experiments.quickstart import run_quickstart

        run_quickstart(out, minutes=minutes, steps=steps)


if __name__ == "__main__":
    main()
