"""The first thing to run: a Multi-Agent Transformer learns a task in minutes, and shows what it learnt."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from ray.tune.registry import get_trainable_cls

from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.evaluation import Evaluation, evaluate, load_policy, policy_env
from rllib_seqmarl.experiments.experiment import Experiment
from rllib_seqmarl.experiments.metrics import ENV_STEPS, SECONDS
from rllib_seqmarl.experiments.plots import plot_learning_curves, write_gif
from rllib_seqmarl.experiments.progress import duration
from rllib_seqmarl.experiments.ray_session import RaySession
from rllib_seqmarl.experiments.report import best_checkpoint, closing_words
from rllib_seqmarl.experiments.results_folder import unused_name
from rllib_seqmarl.experiments.runner import check_runnable, run_experiment
from rllib_seqmarl.experiments.trial_files import read_curve
from rllib_seqmarl.experiments.tuned import tuned_configs

logger = logging.getLogger(__name__)

TUNED = "mat/mpe-simple_spread"
_DRAWN = 3  # episodes in an animation


@dataclass(frozen=True)
class QuickstartResult:
    """What the quick start made.

    Attributes:
        before: The evaluation of the untrained team.
        after: That of the trained team, on the same episodes.
        checkpoint: The trained team.
        curve: The learning curve's picture.
        animation: The trained team at work.
    """

    before: Evaluation
    after: Evaluation
    checkpoint: Path
    curve: Path
    animation: Path


def run_quickstart(out: Path, minutes: float = 4.0, steps: int | None = None, episodes: int = 64) -> QuickstartResult:
    """Trains MAT on `mpe/simple_spread` from its tuned configuration; compares it with the untrained team.

    Args:
        out: The folder for everything it writes.
        minutes: How long to train.
        steps: Env steps after which to stop, if that comes first; None for those of the tuned configuration.
        episodes: How many episodes an evaluation has.

    Raises:
        ExperimentError: something is missing, or training failed.
    """
    out = out.absolute()
    experiment = _experiment(out, minutes, steps)
    session = RaySession()
    session.quieten()
    check_runnable([experiment], session)
    logger.info(
        "A Multi-Agent Transformer learns %s: three agents shall cover three landmarks without colliding.\n"
        "It trains for %s or %s steps, whichever comes first. The return is the team's; higher is better.\n",
        experiment.config["env"],
        duration(60 * minutes),
        f"{experiment.stop[ENV_STEPS]:,.0f}",
    )
    with session.open():
        before = _evaluate(_untrained(experiment, out / "untrained"), episodes, out / "before.gif")
        outcome = run_experiment(experiment, session)
    checkpoint = best_checkpoint(outcome)
    if outcome.failures or outcome.interrupted or checkpoint is None:
        raise ExperimentError(closing_words(outcome))
    after = _evaluate(Path(checkpoint), episodes, out / "after.gif")
    curve = out / "learning_curve.png"
    plot_learning_curves(
        {"while learning (sampled actions)": read_curve(Path(outcome.results[0].path))},
        curve,
        title=f"{experiment.run} on {experiment.config['env']}",
        marks={
            "untrained, greedy": float(before.team_returns.mean()),
            "trained, greedy": float(after.team_returns.mean()),
        },
    )
    result = QuickstartResult(before, after, Path(checkpoint), curve, out / "after.gif")
    logger.info("%s", _closing_words(result, episodes))
    return result


def _experiment(out: Path, minutes: float, steps: int | None) -> Experiment:
    tuned = tuned_configs().get(TUNED)
    if tuned is None:
        raise ExperimentError(f"the tuned configuration {TUNED} is not installed; install the package anew.")
    experiment = tuned.load()
    stop = {ENV_STEPS: steps or experiment.stop[ENV_STEPS], SECONDS: 60 * minutes}
    return replace(experiment, name=unused_name(str(out), "training"), storage_path=str(out), stop=stop)


def _untrained(experiment: Experiment, folder: Path) -> Path:
    """A checkpoint of the algorithm as it begins."""
    config = get_trainable_cls(experiment.run).get_default_config().update_from_dict(experiment.config)
    algorithm = config.build_algo()
    try:
        algorithm.save_to_path(folder)
    finally:
        algorithm.stop()
    return folder


def _evaluate(checkpoint: Path, episodes: int, animation: Path) -> Evaluation:
    policy = load_policy(checkpoint)
    evaluation = evaluate(policy, policy_env(policy, render=True), episodes, draw=_DRAWN)
    write_gif(evaluation.frames, animation)
    return evaluation


def _closing_words(result: QuickstartResult, episodes: int) -> str:
    before, after = result.before.team_returns, result.after.team_returns
    return f"""
The same {episodes} episodes, greedy actions:
  before training   {before.mean():7.2f} +- {before.std():.2f}
  after training    {after.mean():7.2f} +- {after.std():.2f}

Learning curve     {result.curve}
The trained team   {result.animation} (the untrained one: before.gif beside it)
Its checkpoint     {result.checkpoint}

What to try next:
  rllib evaluate {result.checkpoint} --episodes 100 --explore
  rllib train file {TUNED}
  rllib train --run MAT --env coordination/distinct_choice --stop '{{env_steps: 50000}}'
  rllib list"""
