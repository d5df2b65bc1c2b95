"""Checksums of checkpoint files, so that damaged or partially copied checkpoints are never loaded."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

CHECKSUMS = "checksums.json"


class DamagedCheckpointError(ValueError):
    """A file of a checkpoint is missing or has changed since it was written."""


def write_checksums(checkpoint: str | Path, names: Iterable[str]) -> None:
    """Write `checksums.json`, which maps each file of a checkpoint to its SHA-256.

    Args:
        checkpoint: The checkpoint's local folder.
        names: The files and folders that belong to the checkpoint; missing ones are skipped.
    """
    root = Path(checkpoint)
    files = [file for name in names for file in (root / name, *(root / name).rglob("*")) if file.is_file()]
    digests = {file.relative_to(root).as_posix(): _digest(file) for file in files}
    (root / CHECKSUMS).write_text(json.dumps(digests, indent=1, sort_keys=True), encoding="utf-8")


def verify_checksums(checkpoint: str | Path) -> None:
    """Verify a checkpoint against its `checksums.json`. Checkpoints of earlier versions have none and pass.

    Raises:
        DamagedCheckpointError: A file is missing or differs.
    """
    root = Path(checkpoint)
    if not (root / CHECKSUMS).is_file():
        return
    remedy = "Restore another checkpoint, or copy this one again."
    try:
        digests = json.loads((root / CHECKSUMS).read_text(encoding="utf-8"))
        expected = {str(name): str(digest) for name, digest in digests.items()}
    except (ValueError, AttributeError):
        raise DamagedCheckpointError(f"{root}: the checkpoint's {CHECKSUMS} is damaged. {remedy}") from None
    for name, digest in expected.items():
        if not (root / name).is_file():
            raise DamagedCheckpointError(f"{root}: the checkpoint lacks its file {name}. {remedy}")
        if _digest(root / name) != digest:
            raise DamagedCheckpointError(
                f"{root}: the checkpoint's file {name} has changed since it was written (its SHA-256 differs). {remedy}"
            )


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class ChecksummedCheckpoints(Algorithm):
    """An algorithm that writes checksums into its checkpoints and verifies them on loading.

    This applies to local folders. Tune also writes and reads checkpoints locally, and uploads copies of them.
    """

    @override(Algorithm)
    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        saved_to: str = super().save_to_path(path, **kwargs)
        if Path(saved_to).is_dir():
            components = [name for name, _ in self.get_checkpointable_components()]
            state = [f"{self.STATE_FILE_NAME}.{ending}" for ending in ("pkl", "msgpack")]
            names = [*components, *state, self.METADATA_FILE_NAME, self.CLASS_AND_CTOR_ARGS_FILE_NAME]
            write_checksums(saved_to, names)
        return saved_to

    @override(Algorithm)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        verify_checksums(path)
        try:
            super().restore_from_path(path, *args, **kwargs)
        except RuntimeError as error:
            mismatch = re.search(r"^\s*((?:size mismatch|Missing key|Unexpected key).*)", str(error), re.MULTILINE)
            if mismatch is None or "loading state_dict" not in str(error):
                raise
            reason = mismatch[1].strip(" .")
            raise ValueError(
                f"{path}: the checkpoint is of another team or network ({reason}). Use its environment and network "
                f"options, or start from its policy with `initial_policy`."
            ) from error

    @classmethod
    @override(Algorithm)
    def from_checkpoint(cls, path: Any, *args: Any, **kwargs: Any) -> Self:
        if isinstance(path, str | Path):  # else a Tune Checkpoint, which reaches `restore_from_path` as a folder
            verify_checksums(path)
        algorithm: Self = super().from_checkpoint(path, *args, **kwargs)
        return algorithm
