"""The folder of an experiment's results: its name, and that one run at a time writes there."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rllib_seqmarl.experiments.errors import ExperimentError

logger = logging.getLogger(__name__)

LOCK = ".running"  # no .json: Tune copies those from one run to the next
MAX_NAME = 120  # bytes; file systems take 255, and Tune adds to it
_RESERVED = re.compile(r'[\x00-\x1f\x7f/\\<>:"|?*]')


def check_name(name: Any, place: str) -> None:
    """Refuses what cannot be the name of an experiment, and so of its folder.

    Args:
        name: The name.
        place: Where it was written.

    Raises:
        ExperimentError: With the reason.
    """
    if not isinstance(name, str):
        raise ExperimentError(f"{place}: an experiment's name is text; put {name} in quotes.")
    found = _RESERVED.search(name)
    reason = None
    if not name or name != name.strip():
        reason = "it is empty, or begins or ends with a space"
    elif found:
        reason = f"it contains {found[0]!r}"
    elif name.startswith("~") or name.endswith("."):
        reason = "it begins with '~' or ends with '.'"
    elif len(name.encode(errors="surrogatepass")) > MAX_NAME:
        reason = f"it is longer than {MAX_NAME} bytes"
    elif name != name.encode(errors="replace").decode():
        reason = "it is not valid Unicode"
    if reason is not None:
        shown = repr(name if len(name) <= 40 else f"{name[:40]}...")
        raise ExperimentError(f"{place}: {shown} cannot be an experiment's name, which is also its folder's: {reason}.")


def as_name(text: str) -> str:
    """A name made from a text that may hold characters which a name cannot."""
    return _RESERVED.sub("-", text).strip(" .~")[:MAX_NAME]


def is_remote(storage_path: str | None) -> bool:
    """Whether results go to a bucket's address, such as s3://..., rather than to a folder of this machine."""
    return "://" in str(storage_path)


def storage_root(storage_path: str | None) -> str:
    """The storage path as Tune takes it: an address as it is, a folder as an absolute path."""
    if is_remote(storage_path):
        return str(storage_path).rstrip("/")
    return str(Path(storage_path or "~/ray_results").expanduser().absolute())


def is_used(folder: Path) -> bool:
    """Whether there is anything in a folder, apart from the lock of a run that was killed."""
    return folder.exists() and (not folder.is_dir() or any(entry.name != LOCK for entry in folder.iterdir()))


def unused_name(storage_path: str | None, name: str) -> str:
    """`name`, or "name-2", "name-3", ...: the first whose folder is not used."""
    root, number, candidate = Path(storage_root(storage_path)), 1, name
    while is_used(root / candidate):
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def check_folder(folder: Path, name: str, resume: bool) -> None:
    """Refuses a folder that cannot be written to, is in use, or, unless resuming, holds another run's results.

    Nothing is created.

    Raises:
        ExperimentError: With the folder and the remedy.
    """
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
        used = is_used(folder)
        if (folder / LOCK).exists():
            with _lock(folder):
                pass
    except OSError as error:
        raise _cannot_write(folder, error) from None
    if used and not resume:
        raise ExperimentError(
            f"{folder} holds results already: continue that run with --resume, choose another name for '{name}' or "
            "another --local-dir, or remove the folder."
        )


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder, which is created, for the time of the body.

    The lock is the operating system's, which releases it when a process ends, however it ends.

    Raises:
        ExperimentError: Another run is using the folder, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
        lock.__enter__()
    except OSError as error:
        raise _cannot_write(folder, error) from None
    with ExitStack() as stack:
        stack.push(lock)
        stack.callback((folder / LOCK).unlink, missing_ok=True)
        yield


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    path = folder / LOCK
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExperimentError(f"{folder}: {_owner(path)} is writing its results there; wait, or stop it.") from None
        except OSError:
            logger.info("%s: this file system has no locks; start no second run there", folder)
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
        file.flush()
        yield


def _owner(lock: Path) -> str:
    try:
        owner = json.loads(lock.read_text())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _cannot_write(folder: Path, error: OSError) -> ExperimentError:
    return ExperimentError(
        f"{folder}: results cannot be written there ({error.strerror or error}); give another folder with --local-dir."
    )
