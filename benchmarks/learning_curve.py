"""Learning curves of a tuned config: returns of sampled and greedy play at fixed numbers of env steps, over seeds.

    python benchmarks/learning_curve.py tuned_configs/mat/mpe-simple_spread.yaml --seeds 0 1 2

Evaluations are the same 512 episodes every time. Results go to benchmarks/results/<name>.json (seeds already there are
not run again) and the picture beside it.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from ray.tune.registry import get_trainable_cls

from rllib_seqmarl.experiments.evaluation import evaluate, policy_env
from rllib_seqmarl.experiments.experiment import Experiment
from rllib_seqmarl.experiments.experiment_file import load_experiments

RESULTS = Path(__file__).parent / "results"
MARKS = (0, 50_000, 100_000, 200_000, 400_000)
EPISODES = 512
# Measured with the published code (github.com/PKU-MARL/Multi-Agent-Transformer), two seeds of 128 episodes, the same
# settings.
PUBLISHED = {
    "sampled": (-28.0, -21.3, -20.8, -19.0, -17.2),
    "greedy": (-36.0, -19.0, -18.7, -18.0, -16.9),
}


def run_seed(experiment: Experiment, seed: int) -> dict[str, dict[str, float]]:
    """Trains once; returns mode -> env steps -> mean team return."""
    algorithm = get_trainable_cls(experiment.run)
    config = algorithm.get_default_config().update_from_dict(experiment.config).debugging(seed=seed)
    algo = config.build_algo()
    policy = algo.get_module().joint_policy()
    env = policy_env(policy)
    curve: dict[str, dict[str, float]] = {"sampled": {}, "greedy": {}}
    marks, steps, start = list(MARKS), 0, time.perf_counter()
    while True:
        while marks and steps >= marks[0]:
            mark = str(marks.pop(0))
            random_state = torch.get_rng_state()  # evaluating shall not change what training draws
            for mode, explore in (("sampled", True), ("greedy", False)):
                returns = evaluate(policy, env, EPISODES, explore=explore, seed=10_000).team_returns
                curve[mode][mark] = round(float(returns.mean()), 3)
            torch.set_rng_state(random_state)
            print(
                f"seed {seed}, {int(mark):7,} steps: sampled {curve['sampled'][mark]:7.2f}, "
                f"greedy {curve['greedy'][mark]:7.2f}   ({time.perf_counter() - start:.0f} s)",
                flush=True,
            )
        if not marks:
            algo.stop()
            return curve
        steps = int(algo.train()["num_env_steps_sampled_lifetime"])
        policy = algo.get_module().joint_policy()


def plot(seeds: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Mean over seeds, bold, the seeds, thin, and the published code, dashed."""
    figure = Figure(figsize=(9.0, 3.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for column, mode in enumerate(("sampled", "greedy")):
        axes = figure.add_subplot(1, 2, column + 1)
        runs = np.array([[curve[mode][str(mark)] for mark in MARKS] for curve in seeds.values()])
        axes.plot(MARKS, runs.T, color="#0072b2", linewidth=0.8, alpha=0.4)
        axes.plot(MARKS, runs.mean(0), color="#0072b2", linewidth=2.2, label=f"MAT, {len(runs)} seeds")
        axes.plot(MARKS, PUBLISHED[mode], color="#555555", linestyle="--", label="published code, 2 seeds")
        axes.set_title(f"{mode} actions", loc="left", fontsize=11)
        axes.set_xlabel("environment steps")
        axes.set_ylabel(f"team return, {EPISODES} episodes")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_ylim(-38, -14)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="an experiment file with one experiment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    args = parser.parse_args()
    logging.getLogger("ray").setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)

    (experiment,) = load_experiments(args.file)
    RESULTS.mkdir(exist_ok=True)
    results = RESULTS / f"{experiment.name}.json"
    for seed in args.seeds:
        # Seeds may run side by side in several processes, so the file is read again each time.
        done = json.loads(results.read_text()) if results.exists() else {}
        if str(seed) not in done:
            curve = run_seed(experiment, seed)
            done = json.loads(results.read_text()) if results.exists() else {}
            results.write_text(json.dumps({**done, str(seed): curve}, indent=2, sort_keys=True) + "\n")
    seeds = json.loads(results.read_text())
    plot(seeds, results.with_suffix(".png"))
    print(f"\n{'env steps':>12}" + "".join(f"{mark:>10,}" for mark in MARKS))
    for mode, published in PUBLISHED.items():
        means = [np.mean([curve[mode][str(mark)] for curve in seeds.values()]) for mark in MARKS]
        print(f"{mode:>12}" + "".join(f"{mean:10.2f}" for mean in means))
        print(f"{'published':>12}" + "".join(f"{value:10.2f}" for value in published))


if __name__ == "__main__":
    main()
