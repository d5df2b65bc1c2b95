"""Time profile of a training iteration, measured with an experiment's config and without Tune."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.registry import get_trainable_cls

from rllib_seqmarl.env_runners.rollout_env_runner import RolloutEnvRunner
from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.experiment import Experiment
from rllib_seqmarl.experiments.metrics import metric
from rllib_seqmarl.experiments.plots import drawing
from rllib_seqmarl.experiments.search_space import corners
from rllib_seqmarl.experiments.table import table
from rllib_seqmarl.provenance import FILE as PROVENANCE

SAMPLING_PARTS = {
    "environment": "stepping the simulator, building observations",
    "network": "computing actions",
    "rollout": "other work per step: rollout rows, episodes, metrics",
    "answering": "communication between env runners and the algorithm",
}
LEARNING_PARTS = {
    "connector": "building train batches: advantages, targets",
    "learner": "forward and backward passes, optimiser",
    "sync": "sending weights to the env runners",
}


@dataclass(frozen=True)
class Profile:
    """The time of an average iteration, in seconds.

    Attributes:
        total: The duration of the iteration.
        env_steps: The number of env steps sampled.
        sampling: Time of the env runners by SAMPLING_PARTS, averaged over runners.
        learning: Time of the learners by LEARNING_PARTS, averaged over learners.
        is_overlapped: Whether sampling and learning run concurrently.
        note: A remark for the reader; may be empty.
    """

    total: float
    env_steps: float
    sampling: dict[str, float]
    learning: dict[str, float]
    is_overlapped: bool
    note: str = ""

    @property
    def other(self) -> float:
        """Seconds that no part accounts for: RLlib's bookkeeping, evaluation, checkpoints."""
        sides = sum(self.sampling.values()), sum(self.learning.values())
        return max(0.0, self.total - (max(sides) if self.is_overlapped else sum(sides)))

    def table(self) -> str:
        """Return a text table of seconds, share of the iteration and microseconds per env step."""
        meanings = SAMPLING_PARTS | LEARNING_PARTS
        rows = [(part, spent, meanings[part]) for part, spent in (self.sampling | self.learning).items()]
        rows.append(("other", self.other, "RLlib's bookkeeping, evaluation"))
        for side, parts in (("env runners", self.sampling), ("learner", self.learning)):
            rows.append((f"{side} idle", self.total - sum(parts.values()), "waiting for the other side"))
        cells = [
            [part, f"{spent:.3f}", f"{spent / self.total:.0%}", f"{spent / self.env_steps * 1e6:.1f}", meaning]
            for part, spent, meaning in rows
        ]
        cells.append(["iteration", f"{self.total:.3f}", "100%", f"{self.total / self.env_steps * 1e6:.1f}", ""])
        return table(["part", "seconds", "share", "us/env step", ""], cells)


def profile_experiment(experiment: Experiment, iterations: int, print_line: Callable[[str], None]) -> Profile:
    """Train an experiment for a few iterations and measure them; uses the first config of a search or grid.

    Args:
        experiment: A checked experiment of a joint-policy algorithm.
        iterations: The number of measured iterations, at least 1; one or two warm-up iterations precede them.
        print_line: Called with each line of progress output.

    Raises:
        ExperimentError: The algorithm is not one of this package's.
    """
    algorithm_class = get_trainable_cls(experiment.run)
    config = algorithm_class.get_default_config().update_from_dict(next(corners(experiment.config)))
    if not hasattr(config, "sample_while_learning"):
        raise ExperimentError(f"{experiment.run} cannot be profiled: it is not one of this package's algorithms.")
    algo = config.build_algo()
    try:
        results = []
        # A prefetched sample, with the compile time of its first steps, is reported one iteration later.
        warm_up = 2 if config.sample_while_learning else 1
        for number in range(warm_up + iterations):
            start = time.perf_counter()
            result = algo.train()
            seconds = time.perf_counter() - start
            print_line(f"iteration {number}: {seconds:.2f} s{' (warm-up, not counted)' if number < warm_up else ''}")
            results.append((seconds, result))
        return _profile(results[warm_up:], algo)
    finally:
        algo.stop()
        with suppress(OSError):  # the folder is not empty if callbacks have written to it
            (Path(algo.logdir) / PROVENANCE).unlink()
            Path(algo.logdir).rmdir()


def _profile(results: list[tuple[float, dict[str, Any]]], algo: Any) -> Profile:
    config = algo.config
    runners, learners = max(1, config.num_env_runners), max(1, config.num_learners)

    def mean(name: str) -> float:
        """Return a metric's mean over the iterations; where it is missing, it is 0."""
        return sum(metric(result, name) or 0.0 for _, result in results) / len(results)

    sampling = {part: mean(f"env_runners/seconds/{part}") / runners for part in ("environment", "network", "rollout")}
    connector = mean("learners/__all_modules__/seconds/connector") / learners
    if not config.sample_while_learning:
        sampling["answering"] = max(0.0, mean("seconds/sampling") - sum(sampling.values()))
    obstacles = algo.env_runner_group.foreach_env_runner(
        lambda runner: runner.obstacle() if isinstance(runner, RolloutEnvRunner) else type(runner).__name__,
        local_env_runner=config.num_env_runners == 0,
    )
    obstacle = next(filter(None, obstacles), None)
    return Profile(
        total=sum(seconds for seconds, _ in results) / len(results),
        env_steps=mean("env_runners/num_env_steps_sampled"),
        sampling=sampling,
        learning={
            "connector": connector,
            "learner": max(0.0, mean("seconds/learning") - connector),
            "sync": mean("seconds/sync"),
        },
        is_overlapped=bool(config.sample_while_learning),
        note=f"Sampling uses RLlib's own loop, all of which is counted as 'answering': {obstacle}." if obstacle else "",
    )


def plot_profile(profile: Profile, path: Path, title: str) -> None:
    """Write a timeline of an iteration, with one bar for the env runners and one for the learner."""
    palette = ("#0072b2", "#56b4e9", "#9ecae1", "#c6dbef", "#e69f00", "#d55e00", "#f0e442")
    colours = dict(zip((*SAMPLING_PARTS, *LEARNING_PARTS), palette, strict=True))
    learning_starts = 0.0 if profile.is_overlapped else sum(profile.sampling.values())
    lanes = (("env runners", 0.0, profile.sampling), ("learner", learning_starts, profile.learning))
    with drawing(path, title, 8.0, 2.9) as axes:
        for row, (_, start, parts) in enumerate(lanes):
            axes.barh(row, profile.total, color="#eeeeee", height=0.55)
            for part, seconds in parts.items():
                axes.barh(row, seconds, left=start, color=colours[part], height=0.55, label=part)
                if seconds > 0.06 * profile.total:
                    share = f"{seconds / profile.total:.0%}"
                    axes.text(start + seconds / 2, row, share, ha="center", va="center", fontsize=9)
                start += seconds
        axes.set_yticks(range(len(lanes)), [lane for lane, *_ in lanes])
        axes.invert_yaxis()
        axes.set_xlim(0, profile.total)
        axes.set_xlabel("seconds of an iteration (grey: idle)")
        axes.spines["left"].set_visible(False)
        axes.tick_params(left=False)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.28)}
        axes.legend(frameon=False, fontsize=9, ncols=7, handlelength=1.0, **below)
