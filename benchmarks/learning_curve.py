"""Learning curves of tuned configs: returns of sampled and greedy actions at fixed numbers of env steps, over seeds.

    python benchmarks/learning_curve.py tuned_configs/*/mpe-simple_spread*.yaml --seeds 0 1 2
    python benchmarks/learning_curve.py mat/smax-2s3z mam/smax-2s3z
    python benchmarks/learning_curve.py mat/jumanji-lbf-2s-8x8-2p-2f-coop --as mat_overlapped \
        --config '{"sample_while_learning": true}'

All evaluations play the same episodes. Results go to benchmarks/results/<name>.json; existing seeds are not repeated.
The table and the figure, benchmarks/results/<task>.png, show all existing results of the task.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from ray.tune.registry import get_trainable_cls

from rllib_seqmarl.experiments.evaluation import PARALLEL_EPISODES, evaluate, policy_env
from rllib_seqmarl.experiments.experiment import Experiment
from rllib_seqmarl.experiments.experiment_file import load_experiments
from rllib_seqmarl.experiments.tuned import tuned_configs

RESULTS = Path(__file__).parent / "results"
ORDER = "mat mat_overlapped mat_gru mam marwkv4 marwkv5 marwkv6 mat_rwkv4 mappo ippo"  # order of the curves
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f", "#8c564b")


@dataclass(frozen=True)
class Protocol:
    """How the curves of a task are measured and drawn.

    Attributes:
        marks: Env steps after which a team is evaluated.
        episodes: The number of episodes per evaluation.
        limits: The limits of the y axis.
        published: Mode -> mean returns at the marks, measured with the published MAT code
            (github.com/PKU-MARL/Multi-Agent-Transformer) and the same settings; NaN if not measured.
        metric: The measured field of `Evaluation`: "team_returns" or "wins".
    """

    marks: tuple[int, ...]
    episodes: int
    limits: tuple[float, float]
    published: dict[str, tuple[float, ...]] = field(default_factory=dict)
    metric: str = "team_returns"

    @property
    def label(self) -> str:
        """The axis label of the measured quantity."""
        return f"{'win rate' if self.metric == 'wins' else 'team return'}, {self.episodes} episodes"


PROTOCOLS = {
    "mpe-simple_spread": Protocol(
        marks=(0, 50_000, 100_000, 200_000, 400_000),
        episodes=512,
        published={"sampled": (-28.0, -21.3, -20.8, -19.0, -17.2), "greedy": (-36.0, -19.0, -18.7, -18.0, -16.9)},
        limits=(-30, -15),
    ),
    "mamujoco-HalfCheetah-6x1": Protocol(
        marks=(0, 50_000, 100_000, 200_000),
        episodes=32,
        published={"sampled": (-177.0, -47.0, 86.0, 106.0), "greedy": (math.nan, math.nan, math.nan, 350.0)},
        limits=(-300, 1000),
    ),
    "jumanji-lbf-2s-8x8-2p-2f-coop": Protocol(
        marks=(0, 100_000, 200_000, 300_000, 400_000, 500_000, 750_000, 1_000_000), episodes=512, limits=(0, 1)
    ),
    "smax-2s3z": Protocol(marks=(0, 250_000, 500_000, 750_000, 1_000_000), episodes=512, limits=(0, 1), metric="wins"),
}
MODES = ("sampled", "greedy")


def run_seed(
    experiment: Experiment, seed: int, protocol: Protocol, checkpoint: Path | None
) -> dict[str, dict[str, float]]:
    """Train once and save the team to `checkpoint`; returns mode -> env steps -> mean of the metric."""
    algorithm = get_trainable_cls(experiment.run)
    config = algorithm.get_default_config().update_from_dict(experiment.config).debugging(seed=seed)
    algo = config.build_algo()
    policy = algo.get_module().joint_policy()
    env = policy_env(policy, num_envs=PARALLEL_EPISODES)
    curve: dict[str, dict[str, float]] = {mode: {} for mode in MODES}
    marks, steps, start = list(protocol.marks), 0, time.perf_counter()
    while True:
        while marks and steps >= marks[0]:
            mark = str(marks.pop(0))
            random_state = torch.get_rng_state()  # evaluation must not affect the random numbers of training
            for mode, explore in zip(MODES, (True, False), strict=True):
                evaluation = evaluate(policy, env, protocol.episodes, explore=explore, seed=10_000)
                curve[mode][mark] = round(float(getattr(evaluation, protocol.metric).mean()), 3)
            torch.set_rng_state(random_state)
            print(
                f"seed {seed}, {int(mark):7,} steps: sampled {curve['sampled'][mark]:7.2f}, "
                f"greedy {curve['greedy'][mark]:7.2f}   ({time.perf_counter() - start:.0f} s)",
                flush=True,
            )
        if not marks:
            if checkpoint is not None:
                algo.save_to_path(checkpoint.absolute())
            algo.stop()
            return curve
        steps = int(algo.train()["num_env_steps_sampled_lifetime"])
        policy = algo.get_module().joint_policy()


def plot(curves: dict[str, dict[str, Any]], protocol: Protocol, path: Path) -> None:
    """Draw means over seeds, the range of the seeds as a band, and the published MAT code as a dashed line."""
    figure = Figure(figsize=(11.0, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    marks = protocol.marks
    for column, mode in enumerate(MODES):
        axes = figure.add_subplot(1, 2, column + 1)
        for colour, (name, seeds) in zip(cycle(COLOURS), curves.items(), strict=False):
            runs = returns(seeds, mode, marks)
            axes.fill_between(marks, runs.min(0), runs.max(0), color=colour, alpha=0.15, linewidth=0)
            axes.plot(
                marks,
                runs.mean(0),
                color=colour,
                linewidth=1.8,
                label=f"{name} ({len(runs)} seed{'s' * (len(runs) > 1)})",
            )
        if mode in protocol.published:
            axes.plot(
                marks, protocol.published[mode], color="#555555", linestyle="--", marker=".", label="published MAT"
            )
        axes.set_title(f"{mode} actions", loc="left", fontsize=11)
        axes.set_xlabel("environment steps")
        axes.set_ylabel(protocol.label)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_ylim(*protocol.limits)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    figure.savefig(path)


def returns(seeds: dict[str, Any], mode: str, marks: tuple[int, ...]) -> np.ndarray:
    """Return the metric as an array (seeds, marks)."""
    return np.array([[curve[mode][str(mark)] for mark in marks] for curve in seeds.values()])


def table(curves: dict[str, dict[str, Any]], protocol: Protocol) -> str:
    """Return a Markdown table of means over seeds, with the standard deviation over seeds after the last step."""
    lines = [
        "| env steps | " + " | ".join(f"{mark // 1000}k" for mark in protocol.marks) + " |",
        "|---" * (len(protocol.marks) + 1) + "|",
    ]
    digits = 1 if max(map(abs, protocol.limits)) > 1 else 3
    for mode in MODES:
        if mode in protocol.published:
            cells = ["" if math.isnan(value) else f"{value:.1f}" for value in protocol.published[mode]]
            lines.append(f"| {mode}, published MAT | " + " | ".join(cells) + " |")
        for name, seeds in curves.items():
            runs = returns(seeds, mode, protocol.marks)
            cells = [f"{mean:.{digits}f}" for mean in runs.mean(0)]
            cells[-1] = f"{runs.mean(0)[-1]:.{digits + 1}f}" + (
                f" ± {runs.std(0)[-1]:.{digits + 1}f}" if len(runs) > 1 else ""
            )
            lines.append(f"| {mode}, {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", help="names of tuned experiments or files with one experiment each")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[0, 1, 2], help="seeds to run; none to only draw existing results"
    )
    parser.add_argument(
        "--config", type=json.loads, default={}, help="JSON config that overrides the experiments' settings"
    )
    parser.add_argument("--as", dest="label", help=f"name of the changed algorithm, one of {ORDER}")
    parser.add_argument("--checkpoints", type=Path, help="folder for the trained teams, saved as <name>-<seed>")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    args = parser.parse_args()
    logging.getLogger("ray").setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)

    RESULTS.mkdir(exist_ok=True)
    tasks = set()
    tuned = tuned_configs()
    for name in args.experiments:
        (experiment,) = [tuned[name].load()] if name in tuned else load_experiments(name)
        label, task = experiment.name.split("-", 1)
        tasks.add(task)
        experiment = replace(
            experiment, name=f"{args.label or label}-{task}", config={**experiment.config, **args.config}
        )
        results = RESULTS / f"{experiment.name}.json"
        for seed in args.seeds:
            # Several processes may run seeds in parallel, so the file is read again each time.
            done = json.loads(results.read_text()) if results.exists() else {}
            if str(seed) not in done:
                print(experiment.name)
                checkpoint = args.checkpoints and args.checkpoints / f"{experiment.name}-{seed}"
                curve = run_seed(experiment, seed, PROTOCOLS[task], checkpoint)
                done = json.loads(results.read_text()) if results.exists() else {}
                results.write_text(json.dumps({**done, str(seed): curve}, indent=2, sort_keys=True) + "\n")
    for task in sorted(tasks):
        files = sorted(RESULTS.glob(f"*-{task}.json"), key=lambda path: ORDER.split().index(path.name.split("-")[0]))
        curves = {path.name.split("-")[0].upper(): json.loads(path.read_text()) for path in files}
        plot(curves, PROTOCOLS[task], RESULTS / f"{task}.png")
        print(table(curves, PROTOCOLS[task]))


if __name__ == "__main__":
    main()
