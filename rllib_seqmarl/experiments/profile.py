"""The time of a training iteration by part, measured with an experiment's config and without Tune."""

from __future__ import annotations

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
from rllib_seqmarl.experiments.report import table
from rllib_seqmarl.experiments.search_space import corners
from rllib_seqmarl.provenance import FILE as PROVENANCE

SAMPLING_PARTS = {
    "environment": "stepping the simulator and laying out what teams see",
    "network": "acting",
    "rollout": "all else around a step: writing rows, episodes, metrics",
    "answering": "on the way between an env runner and the algorithm",
}
LEARNING_PARTS = {
    "connector": "from samples to a train batch: advantages, targets",
    "learner": "forward and backward passes, optimiser",
    "sync": "new weights to the env runners",
}


@dataclass(frozen=True)
class Profile:
    """Seconds of an average iteration.

    Attributes:
        total: Of the whole.
        env_steps: How many steps were sampled in it.
        sampling: Of the env runners, by SAMPLING_PARTS; the average runner's, where there are several.
        learning: Of the learner, by LEARNING_PARTS; the average learner's.
        is_overlapped: Whether sampling and learning go on at once.
        note: What else a reader should know; empty if nothing.
    """

    total: float
    env_steps: float
    sampling: dict[str, float]
    learning: dict[str, float]
    is_overlapped: bool
    note: str = ""

    @property
    def other(self) -> float:
        """Seconds that no part accounts for: RLlib's own bookkeeping, evaluation, checkpoints."""
        sides = sum(self.sampling.values()), sum(self.learning.values())
        return max(0.0, self.total - (max(sides) if self.is_overlapped else sum(sides)))

    def table(self) -> str:
        """As text: seconds of an iteration, its share and microseconds per env step."""
        rows = [
            (part, parts[part], meaning)
            for parts, meanings in ((self.sampling, SAMPLING_PARTS), (self.learning, LEARNING_PARTS))
            for part, meaning in meanings.items()
            if part in parts
        ]
        rows.append(("other", self.other, "RLlib's bookkeeping, evaluation"))
        for side, parts in (("env runners", self.sampling), ("learner", self.learning)):
            rows.append((f"{side} idle", self.total - sum(parts.values()), "waiting for the other side"))
        cells = [
            [part, f"{spent:.3f}", f"{spent / self.total:.0%}", f"{spent / self.env_steps * 1e6:.1f}", meaning]
            for part, spent, meaning in rows
        ]
        cells.append(["iteration", f"{self.total:.3f}", "100%", f"{self.total / self.env_steps * 1e6:.1f}", ""])
        return table(["part", "seconds", "share", "us/env step", ""], cells)


def profile_experiment(experiment: Experiment, iterations: int, say: Callable[[str], None]) -> Profile:
    """Trains a few iterations of an experiment; of a search or grid its first config.

    Args:
        experiment: A checked experiment of a joint-policy algorithm.
        iterations: The number of measured iterations, from 1; one or two before them warm up.
        say: Takes progress, line by line.

    Raises:
        ExperimentError: The algorithm is none of this package's.
    """
    algorithm_class = get_trainable_cls(experiment.run)
    config = algorithm_class.get_default_config().update_from_dict(next(corners(experiment.config)))
    if not hasattr(config, "sample_while_learning"):
        raise ExperimentError(f"{experiment.run} cannot be profiled: it is none of this package's algorithms.")
    algo = config.build_algo()
    try:
        results = []
        # A sample taken ahead is reported one iteration later, and so is the time that its first steps take to compile.
        warm_up = 2 if config.sample_while_learning else 1
        for number in range(warm_up + iterations):
            start = time.perf_counter()
            result = algo.train()
            seconds = time.perf_counter() - start
            say(f"iteration {number}: {seconds:.2f} s{' (warms up, not counted)' if number < warm_up else ''}")
            results.append((seconds, result))
        return _profile(results[warm_up:], algo)
    finally:
        algo.stop()
        with suppress(OSError):  # not empty, if callbacks have written there
            (Path(algo.logdir) / PROVENANCE).unlink()
            Path(algo.logdir).rmdir()


def _profile(results: list[tuple[float, dict[str, Any]]], algo: Any) -> Profile:
    config = algo.config
    runners, learners = max(1, config.num_env_runners), max(1, config.num_learners)

    def mean(*keys: str) -> float:
        """The mean over iterations of what stands at `keys` in their results."""
        values = []
        for _, result in results:
            found: Any = result
            for key in keys:
                found = found.get(key, 0.0) if isinstance(found, dict) else 0.0
            values.append(float(found))
        return sum(values) / len(values)

    sampling = {part: mean("env_runners", "seconds", part) / runners for part in ("environment", "network", "rollout")}
    connector = mean("learners", "__all_modules__", "seconds", "connector") / learners
    waited = mean("seconds", "sampling")
    is_overlapped = bool(config.sample_while_learning)
    note = _note(algo)
    if not is_overlapped:
        sampling["answering"] = max(0.0, waited - sum(sampling.values()))
    return Profile(
        total=sum(seconds for seconds, _ in results) / len(results),
        env_steps=mean("env_runners", "num_env_steps_sampled"),
        sampling=sampling,
        learning={
            "connector": connector,
            "learner": max(0.0, mean("seconds", "learning") - connector),
            "sync": mean("seconds", "sync"),
        },
        is_overlapped=is_overlapped,
        note=note,
    )


def _note(algo: Any) -> str:
    """Why the parts of sampling are not known, if they are not."""
    obstacles = algo.env_runner_group.foreach_env_runner(
        lambda runner: runner.obstacle() if isinstance(runner, RolloutEnvRunner) else type(runner).__name__,
        local_env_runner=algo.config.num_env_runners == 0,
    )
    found = next(filter(None, obstacles), None)
    if found is None:
        return ""
    return f"Sampling goes by RLlib's own loop, whose parts are all counted as 'answering': {found}."


def plot_profile(profile: Profile, path: Path, title: str) -> None:
    """Writes a picture of an iteration: what env runners and learner do, one above the other.

    Args:
        profile: What was measured.
        path: Where to; the suffix tells the format (.png, .svg, .pdf).
        title: What stands above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    palette = ("#0072b2", "#56b4e9", "#9ecae1", "#c6dbef", "#e69f00", "#d55e00", "#f0e442")
    colours = dict(zip((*SAMPLING_PARTS, *LEARNING_PARTS), palette, strict=True))
    figure = Figure(figsize=(8.0, 2.9), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    sampled = sum(profile.sampling.values())
    lanes = (
        ("env runners", 0.0, profile.sampling),
        ("learner", 0.0 if profile.is_overlapped else sampled, profile.learning),
    )
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
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.legend(frameon=False, fontsize=9, ncols=7, loc="upper center", bbox_to_anchor=(0.5, -0.28), handlelength=1.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
