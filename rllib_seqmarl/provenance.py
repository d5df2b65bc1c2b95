"""The provenance of a training run: versions, command, seed and configuration, in one JSON file in its folder."""

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import numpy as np
import ray
from pyarrow.fs import FileSystem, LocalFileSystem
from ray.tune import Trainable

from rllib_seqmarl.version import __version__

FILE = "provenance.json"
_PACKAGES = ("ray", "torch", "numpy", "gymnasium", "pettingzoo", "numba", "safetensors")
# Set by RLlib's and our own validation, from other keys.
_DERIVED = {"simple_optimizer", "callbacks", "callbacks_class", "env_runner_cls"}


@dataclass(frozen=True)
class ProvenanceFile:
    """The record in one run's folder, on the file system of this machine or of a bucket."""

    filesystem: FileSystem
    path: str

    @classmethod
    def of(cls, trainable: Trainable) -> Self:
        """The file of a trial, or of an algorithm that runs without Tune."""
        storage = trainable._storage
        if storage is None:
            return cls(LocalFileSystem(), f"{trainable.logdir}/{FILE}")
        return cls(storage.storage_filesystem, f"{storage.trial_fs_path}/{FILE}")

    def seed(self) -> int | None:
        """The recorded seed; None if there is no record yet."""
        try:
            with self.filesystem.open_input_stream(self.path) as file:
                return int(json.loads(file.read())["seed"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, record: Mapping[str, Any]) -> None:
        """Replaces the record."""
        self.filesystem.create_dir(str(Path(self.path).parent), recursive=True)
        with self.filesystem.open_output_stream(self.path) as file:
            file.write(f"{json.dumps(record, indent=2)}\n".encode())


def provenance(
    run: str, config: Mapping[str, Any], defaults: Mapping[str, Any], suite_packages: Iterable[str] = ()
) -> dict[str, Any]:
    """A run's provenance as JSON values.

    Args:
        run: The algorithm's name.
        config: Its effective config.
        defaults: The algorithm's default config.
        suite_packages: Importable packages that the environment needs.

    Returns:
        The record. Its "experiment" is the run in the classic format, with the values that differ from the defaults;
        the keys of values that JSON cannot hold are in "left_out".
    """
    changed = {
        key.removeprefix("_"): value
        for key, value in config.items()
        if key in defaults and key not in _DERIVED and plain(value) != plain(defaults[key])
    }
    return {
        "command": _command(),
        "seed": config["seed"],
        "experiment": {"run": run, "config": {key: value for key, value in changed.items() if _is_plain(value)}},
        "left_out": [key for key, value in changed.items() if not _is_plain(value)],
        "versions": _versions(suite_packages),
        "git": _commit(),
        "effective_config": {key: plain(value) for key, value in config.items()},
    }


def drawn_seed() -> int:
    """A seed from the operating system's entropy."""
    return int(np.random.SeedSequence().generate_state(1)[0] >> 1)  # 31 bits: some simulators take no more


def _command() -> str:
    """The command line of the driver, which may be another process than this one."""
    context = ray.get_runtime_context() if ray.is_initialized() else None
    if context is None or context.worker.mode == ray.SCRIPT_MODE:
        return shlex.join(sys.argv)
    entries = {job["JobID"]: job["Entrypoint"] for job in ray._private.state.jobs()}
    return entries.get(context.get_job_id(), "")


def _versions(suite_packages: Iterable[str]) -> dict[str, str]:
    found = {"rllib_seqmarl": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in (*_PACKAGES, *(name.partition(".")[0] for name in suite_packages)):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _commit() -> str | None:
    """The commit of the clone that the package was imported from, and whether it was changed; None outside of one."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _is_plain(value: Any) -> bool:
    """Whether JSON holds a value such that it is read back equal."""
    try:
        return bool(json.loads(json.dumps(value)) == (list(value) if isinstance(value, tuple) else value))
    except (TypeError, ValueError):
        return False


def plain(value: Any, describe: Callable[[Any], Any] = repr) -> Any:
    """A value as JSON; objects by their descriptions."""
    if isinstance(value, Mapping):
        return {str(key): plain(part, describe) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, describe) for part in value]
    return value if value is None or isinstance(value, str | int | float | bool) else describe(value)
