"""Experiment files: RLlib's classic YAML format, read safely, with line numbers in all error messages."""

from functools import partial
from pathlib import Path

from rllib_seqmarl.experiments.errors import ExperimentError, Problems
from rllib_seqmarl.experiments.experiment import Experiment, parse_experiment
from rllib_seqmarl.experiments.plain_yaml import Document, parse_yaml


def read_document(path: str | Path) -> Document:
    """Read an experiment file without checking its experiments.

    Raises:
        ExperimentError: The file is missing, is not valid YAML, or is not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ExperimentError(
            f"{path}: no such file. `rllib list` shows the tuned experiments of the package."
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
            f"{document.where('run')}: 'run' belongs to an experiment: add the experiment's name above, as in "
            "`my-run:`, and indent its keys."
        )
    return document


def load_experiments(path: str | Path, only: str | None = None) -> list[Experiment]:
    """Read an experiment file, a mapping `name: {run, env, stop, config, ...}` of any number of experiments.

    Everything that can be checked without running is checked, using the config class of each algorithm. Similar
    experiments can share settings by YAML anchors and merge keys:

    ```yaml
    easy: &task
      run: MAT
      env: smax/3m
      config: {lr: 5.0e-4, num_epochs: 5}
    hard: {<<: *task, env: smax/6h_vs_8z}
    ```

    Args:
        path: A YAML file. See `experiments.experiment` for the keys of an experiment.
        only: The name of the experiment to read; None for all.

    Returns:
        The experiments, in the order of the file.

    Raises:
        ExperimentError: The file is invalid; has a line for each problem, starting with file and line number.
    """
    document = read_document(path)
    problems = Problems()
    experiments = [
        problems.of(parse_experiment, name, spec, partial(document.where, name))
        for name, spec in document.value.items()
        if only in (None, name)
    ]
    problems.report()
    return experiments
