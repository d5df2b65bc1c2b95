"""The results folder of an experiment: its name, and a lock that admits one run at a time."""

import errno
import fcntl
import json
import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rllib_seqmarl.experiments.errors import ExperimentError

logger = logging.getLogger(__name__)

LOCK = ".running"  # not .json, since Tune copies such files from one run to the next
MAX_NAME = 120  # bytes; file systems allow 255, and Tune appends to the name
_RESERVED = re.compile(r'[\x00-\x1f\x7f/\\<>:"|?*]')


def check_name(name: Any, place: str) -> None:
    """Check that a name, given at a source location, is valid for an experiment and its folder.

    Raises:
        ExperimentError: The name is invalid; gives the reason.
    """
    if not isinstance(name, str):
        raise ExperimentError(f"{place}: an experiment's name must be text; put {name} in quotes.")
    reserved = _RESERVED.search(name)
    reason = None
    if not name or name != name.strip():
        reason = "it is empty, or starts or ends with a space"
    elif reserved:
        reason = f"it contains {reserved[0]!r}"
    elif name.startswith("~") or name.endswith("."):
        reason = "it starts with '~' or ends with '.'"
    elif len(name.encode(errors="surrogatepass")) > MAX_NAME:
        reason = f"it is longer than {MAX_NAME} bytes"
    elif name != name.encode(errors="replace").decode():
        reason = "it is not valid Unicode"
    if reason is not None:
        label = repr(name if len(name) <= 40 else f"{name[:40]}...")
        raise ExperimentError(f"{place}: {label} cannot be the name of an experiment and its folder: {reason}.")


def to_valid_name(text: str) -> str:
    """Return a valid name for a text by replacing characters that names cannot contain."""
    return _RESERVED.sub("-", text).strip(" .~")[:MAX_NAME]


def is_remote(storage_path: str | None) -> bool:
    """Whether results go to remote storage, such as s3://..., rather than a local folder."""
    return "://" in str(storage_path)


def storage_root(storage_path: str | None) -> str:
    """Return the storage path as Tune expects it: remote addresses unchanged, folders as absolute paths."""
    if is_remote(storage_path):
        return str(storage_path).rstrip("/")
    return str(Path(storage_path or "~/ray_results").expanduser().absolute())


def is_used(folder: Path) -> bool:
    """Whether a folder contains anything except the lock of a killed run."""
    return folder.exists() and (not folder.is_dir() or any(entry.name != LOCK for entry in folder.iterdir()))


def unused_name(storage_path: str | None, name: str) -> str:
    """Return the first of `name`, "name-2", "name-3", ... whose folder is unused."""
    root, number, candidate = Path(storage_root(storage_path)), 1, name
    while is_used(root / candidate):
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def check_storage_path(path: str, place: str) -> None:
    """Check that a path, given at a source location, can be the folder or remote address of results.

    Raises:
        ExperimentError: The path is invalid; gives the reason.
    """
    if not path.strip() or "\0" in path:
        reason = "contains a NUL character" if path.strip() else "is empty"
        raise ExperimentError(f"{place}: the path of the results {reason}; omit it for ~/ray_results.")


def check_folder(folder: Path, name: str, resume: bool) -> None:
    """Check that a folder is writable, not in use and, unless resuming, without results of another run.

    Nothing is created.

    Raises:
        ExperimentError: A check failed; names the folder and the remedy.
    """
    try:
        _try_to_write(folder)
        used = is_used(folder)
        if (folder / LOCK).exists():
            _lock(folder).close()
    except OSError as error:
        raise _cannot_write(folder, error) from None
    if used and not resume:
        raise ExperimentError(
            f"{folder} already contains results: continue that run with --resume, choose another name for '{name}' or "
            "another --local-dir, or remove the folder."
        )


def check_output_file(path: Path, option: str, suffixes: Sequence[str]) -> None:
    """Check that the file named by a command-line option can be written, so that no work is lost. Creates nothing.

    Raises:
        ExperimentError: The format is unknown, or the file cannot be written.
    """
    if path.suffix.lower() not in suffixes:
        raise ExperimentError(f"{option}: the name of the file must end with {' or '.join(suffixes)}; got '{path}'.")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _try_to_write(path.absolute().parent)
    except OSError as error:
        raise ExperimentError(f"{option}: {path} cannot be written ({error.strerror or error}).") from None


def _try_to_write(folder: Path) -> None:
    """Raise an OSError if a folder cannot be written, or cannot be created."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    with tempfile.TemporaryFile(dir=existing):
        pass


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Create a folder and lock it against other runs for the duration of the block.

    The operating system releases the lock when the process ends, even if it is killed.

    Raises:
        ExperimentError: Another run is using the folder, or the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    with lock:
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def _lock(folder: Path) -> TextIO:
    """Return the open lock file, which names this process; closing it releases the lock."""
    path = folder / LOCK
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ExperimentError(f"{folder}: {_owner(path)} is writing results there; wait or stop it.") from None
    except OSError:
        logger.info("%s: this file system does not support locks; do not start a second run there", folder)
    file.truncate(0)
    json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
    file.flush()
    return file


def _owner(lock: Path) -> str:
    try:
        owner = json.loads(lock.read_text())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _cannot_write(folder: Path, error: OSError) -> ExperimentError:
    return ExperimentError(
        f"{folder}: results cannot be written there ({error.strerror or error}); choose another folder by --local-dir."
    )
