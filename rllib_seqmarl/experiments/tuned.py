"""The tuned experiments that come with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import rllib_seqmarl
from rllib_seqmarl.experiments.experiment import Experiment
from rllib_seqmarl.experiments.experiment_file import load_experiments, read_document


@dataclass(frozen=True)
class TunedConfig:
    """One tuned experiment.

    Attributes:
        file: The experiment file that holds it, often with others that share its settings.
        experiment: Its name in there.
    """

    file: Path
    experiment: str

    def load(self) -> Experiment:
        """Reads and checks it.

        Raises:
            ExperimentError: anything is wrong with it, or its environment's packages are missing.
        """
        (experiment,) = load_experiments(self.file, only=self.experiment)
        return experiment


def tuned_configs() -> dict[str, TunedConfig]:
    """All tuned experiments by their names, "algorithm/suite-task".

    They lie in the package, in a folder for each algorithm; in a checkout, that is a link to the folder beside it.
    A file with one experiment gives it its name. Where several share a file, they are named after themselves:
    `mam-smax-3s5z` in `mam/smax.yaml` is "mam/smax-3s5z".
    """
    folder = Path(rllib_seqmarl.__file__).parent / "tuned_configs"
    configs = {}
    for file in sorted(folder.glob("*/*.yaml")):
        algorithm, experiments = file.parent.name, list(read_document(file).value)
        for name in experiments:
            task = file.stem if len(experiments) == 1 else name.removeprefix(f"{algorithm}-")
            configs[f"{algorithm}/{task}"] = TunedConfig(file, name)
    return configs


def find_experiments(name: str) -> list[Experiment]:
    """The experiments of a file, or the tuned one of that name.

    Raises:
        ExperimentError: as `load_experiments`.
    """
    tuned = tuned_configs().get(name)
    return load_experiments(name) if tuned is None else [tuned.load()]
