"""Experiment files: RLlib's classic YAML, read safely, where every mistake is told with its line."""

from __future__ import annotations

from pathlib import Path

from rllib_seqmarl.experiments.errors import ExperimentError, Problems
from rllib_seqmarl.experiments.experiment import Experiment, parse_experiment
from rllib_seqmarl.experiments.plain_yaml import Document, parse_yaml

__all__ = ["Document", "load_experiments", "parse_yaml", "read_document"]


def read_document(path: str | Path) -> Document:
    """Reads an experiment file as far as the names of its experiments; what they are is not looked at.

    Raises:
        ExperimentError: The file is missing, is not valid YAML, or holds no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ExperimentError(
            f"{path}: there is no such file. `rllib list` shows the tuned experiments that come with the package."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path}: cannot be read as text: {error}") from None
    document = parse_yaml(text, str(path))
    if not isinstance(document.value, dict) or not document.value:
        raise ExperimentError(
            f"{document.where()}: an experiment file maps names to experiments, "
            "such as `my-run: {run: MAT, env: mpe/simple_spread, stop: {env_steps: 400000}}`."
        )
    if isinstance(document.value.get("run"), str):
        raise ExperimentError(
            f"{document.where('run')}: 'run' belongs to an experiment: write its name above, as in `my-run:`, and "
            "indent its keys."
        )
    return document


def load_experiments(path: str | Path, only: str | None = None) -> list[Experiment]:
    """Reads an experiment file: `name: {run, env, stop, config, ...}`, as many as it holds, in its order.

    Everything that can be checked without running is checked, with each algorithm's own config class. Experiments that
    differ little can share the rest by YAML's anchors and merge keys:

    ```yaml
    easy: &task
      run: MAT
      env: smax/3m
      config: {lr: 5.0e-4, num_epochs: 5}
    hard: {<<: *task, env: smax/6h_vs_8z}
    ```

    Args:
        path: A YAML file. See `experiments.experiment` for the keys of an experiment.
        only: The name of the one to read; None for all.

    Returns:
        The experiments.

    Raises:
        ExperimentError: Anything is wrong; a line for each problem, which begins with the file and the line.
    """
    document = read_document(path)
    experiments, problems = [], Problems()
    for name, spec in document.value.items():
        if only in (None, name):
            with problems.collect():
                experiments.append(parse_experiment(name, spec, lambda *path, name=name: document.where(name, *path)))
    problems.report()
    return experiments
