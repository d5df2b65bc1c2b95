"""The quick start: train a Multi-Agent Transformer in minutes and compare it with two baselines."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from ray.tune.registry import get_trainable_cls

from rllib_seqmarl.experiments.animation import write_gif
from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.evaluation import Evaluation, evaluate, load_policy, policy_env
from rllib_seqmarl.experiments.experiment import Experiment
from rllib_seqmarl.experiments.metrics import ENV_STEPS, SECONDS
from rllib_seqmarl.experiments.plots import plot_learning_curves
from rllib_seqmarl.experiments.progress import duration
from rllib_seqmarl.experiments.random_policy import RandomPolicy
from rllib_seqmarl.experiments.ray_session import RaySession
from rllib_seqmarl.experiments.report import best_checkpoint, closing_message
from rllib_seqmarl.experiments.results_folder import unused_name
from rllib_seqmarl.experiments.runner import check_runnable, run_experiment
from rllib_seqmarl.experiments.table import table
from rllib_seqmarl.experiments.trial_files import read_curve
from rllib_seqmarl.experiments.tuned import tuned_configs
from rllib_seqmarl.policy import JointPolicy

logger = logging.getLogger(__name__)

TUNED = "mat/mpe-simple_spread"
_NUM_RENDERED = 3  # episodes in an animation


@dataclass(frozen=True)
class QuickstartResult:
    """The results of the quick start.

    The evaluations, on the same episodes, are of uniformly random actions and of the network's greedy actions before
    and after training. The files are the trained team's checkpoint, its learning curve and an animation of it.
    """

    random: Evaluation
    before: Evaluation
    after: Evaluation
    checkpoint: Path
    curve: Path
    animation: Path


def run_quickstart(out: Path, minutes: float = 4.0, steps: int | None = None, episodes: int = 64) -> QuickstartResult:
    """Train MAT on `mpe/simple_spread` with its tuned configuration and compare it with two baselines.

    Args:
        out: The output folder.
        minutes: The training time.
        steps: Stop after this many env steps if that comes first; None for the tuned configuration's number.
        episodes: The number of episodes per evaluation.

    Raises:
        ExperimentError: A package is missing, or training failed.
    """
    out = out.absolute()
    experiment = _experiment(out, minutes, steps)
    session = RaySession()
    session.quieten()
    check_runnable([experiment], session)
    logger.info(
        "A Multi-Agent Transformer learns %s: three agents must cover three landmarks without colliding.\n"
        "It trains for %s or %s steps, whichever comes first, and is then compared with two baselines: uniformly\n"
        "random actions and the untrained network's greedy actions. Returns are the team's; higher is better.\n",
        experiment.config["env"],
        duration(60 * minutes),
        f"{experiment.stop[ENV_STEPS]:,.0f}",
    )
    with session.open():
        logger.info("Evaluating the baselines ...", extra={"under_way": "evaluating the baselines"})
        untrained = load_policy(_save_untrained(experiment, out / "untrained"))
        random = _evaluate(untrained, episodes, out / "random.gif", team=RandomPolicy(untrained.layout))
        before = _evaluate(untrained, episodes, out / "before.gif")
        outcome = run_experiment(experiment, session)
    checkpoint = best_checkpoint(outcome)
    if outcome.failures or outcome.interrupted or checkpoint is None:
        raise ExperimentError(closing_message(outcome))
    after = _evaluate(load_policy(Path(checkpoint)), episodes, out / "after.gif")
    curve = out / "learning_curve.png"
    plot_learning_curves(
        {"while learning (sampled actions)": read_curve(Path(outcome.results[0].path))},
        curve,
        title=f"{experiment.run} on {experiment.config['env']}",
        marks={
            "random actions": float(random.team_returns.mean()),
            "untrained, greedy": float(before.team_returns.mean()),
            "trained, greedy": float(after.team_returns.mean()),
        },
    )
    result = QuickstartResult(random, before, after, Path(checkpoint), curve, out / "after.gif")
    logger.info("%s", _summary(result, episodes))
    return result


def _experiment(out: Path, minutes: float, steps: int | None) -> Experiment:
    tuned = tuned_configs().get(TUNED)
    if tuned is None:
        raise ExperimentError(f"the tuned configuration {TUNED} is not installed; reinstall the package.")
    experiment = tuned.load()
    stop = {ENV_STEPS: steps or experiment.stop[ENV_STEPS], SECONDS: 60 * minutes}
    return replace(experiment, name=unused_name(str(out), "training"), storage_path=str(out), stop=stop)


def _save_untrained(experiment: Experiment, folder: Path) -> Path:
    """Save a checkpoint of the algorithm before training."""
    config = get_trainable_cls(experiment.run).get_default_config().update_from_dict(experiment.config)
    algorithm = config.build_algo()
    try:
        algorithm.save_to_path(folder)
    finally:
        algorithm.stop()
    return folder


def _evaluate(policy: JointPolicy, episodes: int, animation: Path, team: RandomPolicy | None = None) -> Evaluation:
    evaluation = evaluate(team or policy, policy_env(policy, render=True), episodes, draw=_NUM_RENDERED)
    write_gif(evaluation.frames, animation)
    return evaluation


def _summary(result: QuickstartResult, episodes: int) -> str:
    teams = {
        "random actions (uniform)": result.random,
        "untrained network, greedy": result.before,
        "trained network, greedy": result.after,
    }
    rows = [[name, f"{team.team_returns.mean():.2f}", f"{team.team_returns.std():.2f}"] for name, team in teams.items()]
    compared = table([f"the same {episodes} episodes", "mean return", "std"], rows)
    return f"""
{compared}

Learning curve     {result.curve}
The trained team   {result.animation} (for comparison: random.gif and before.gif in the same folder)
Its checkpoint     {result.checkpoint}

What to try next:
  rllib evaluate {result.checkpoint} --episodes 100 --explore
  rllib train file {TUNED}
  rllib train --run MAT --env coordination/distinct_choice --stop '{{win_rate: 0.9, env_steps: 100000}}'
  rllib list"""
