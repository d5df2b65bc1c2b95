"""The tuned experiments of the package."""

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
    """A tuned experiment: its file, which may contain several that share settings, and its name in the file."""

    file: Path
    experiment: str

    def load(self) -> Experiment:
        """Read and check the experiment.

        Raises:
            ExperimentError: The experiment is invalid, or packages of its environment are missing.
        """
        from rllib_seqmarl.experiments.experiment_file import load_experiments  # imports Ray

        (experiment,) = load_experiments(self.file, only=self.experiment)
        return experiment


def tuned_configs() -> dict[str, TunedConfig]:
    """Return all tuned experiments by name, "algorithm/suite-task".

    The package has one folder of them per algorithm; in a checkout, it links to `tuned_configs`. The only experiment in
    a file is named after the file. If several share a file, each is named after its key: `mam-smax-3s5z` in
    `mam/smax.yaml` is "mam/smax-3s5z".
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
    """Return the experiments of a file, or the tuned experiment of that name.

    Raises:
        ExperimentError: See `load_experiments`.
    """
    from rllib_seqmarl.experiments.experiment_file import load_experiments  # imports Ray

    tuned = tuned_configs().get(name)
    return load_experiments(name) if tuned is None else [tuned.load()]
