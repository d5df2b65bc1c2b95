"""The tuned experiments that come with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from rllib_seqmarl.experiments.experiment import Experiment

_FOLDER = Path(__file__).parent.parent / "tuned_configs"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
            ExperimentError: Anything is wrong with it, or its environment's packages are missing.
        """
        from rllib_seqmarl.experiments.experiment_file import load_experiments  # imports Ray

        (experiment,) = load_experiments(self.file, only=self.experiment)
        return experiment


def tuned_configs() -> dict[str, TunedConfig]:
    """All tuned experiments by their names, "algorithm/suite-task".

    The package holds one folder of them per algorithm; in a checkout, it links to `tuned_configs`. An experiment that
    is alone in its file is named after the file. Where several share a file, each is named after its key:
    `mam-smax-3s5z` in `mam/smax.yaml` is "mam/smax-3s5z".
    """
    configs = {}
    for file in sorted(_FOLDER.glob("*/*.yaml")):
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=_Loader)
        assert isinstance(root, yaml.MappingNode), file
        algorithm, experiments = file.parent.name, [key.value for key, _ in root.value]
        for name in experiments:
            task = file.stem if len(experiments) == 1 else name.removeprefix(f"{algorithm}-")
            configs[f"{algorithm}/{task}"] = TunedConfig(file, name)
    return configs


def find_experiments(name: str) -> list[Experiment]:
    """The experiments of a file, or the tuned one of that name.

    Raises:
        ExperimentError: As `load_experiments`.
    """
    from rllib_seqmarl.experiments.experiment_file import load_experiments  # imports Ray

    tuned = tuned_configs().get(name)
    return load_experiments(name) if tuned is None else [tuned.load()]
