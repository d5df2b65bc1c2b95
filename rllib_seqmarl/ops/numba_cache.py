"""numba's kernel cache, made safe for concurrent processes and for kernels that call kernels in other files."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from math import inf
from pathlib import Path
from typing import IO, Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

with suppress(ImportError):  # Windows has none
    import fcntl

COMPILE_SECONDS = 120.0  # how long to wait for a kernel that another process compiles


@cache
def _sources() -> tuple[tuple[str, float, int], ...]:
    """Names, modification times and sizes of all files that may contain kernels."""
    package = Path(__file__).parents[1]
    files = [file for folder in ("ops", "networks/decoding") for file in sorted((package / folder).rglob("*.py"))]
    stats = [(file.relative_to(package).as_posix(), file.stat()) for file in files]
    return tuple((name, stat.st_mtime, stat.st_size) for name, stat in stats)


class SharedCache(FunctionCache):
    """The cache of one function. It differs from numba's own in three ways.

    Entries are stale as soon as any file with kernels has changed: a kernel contains the kernels it calls, but numba
    checks the file of the function only.

    Only one process at a time reads or writes it. numba names an entry by the next number that is free in the index, so
    two processes that compile a kernel for float32 and float64 at the same time can choose the same name; from then on,
    one of the two types gets the code of the other.

    Processes that need the same kernel at the same time, such as the env runners of a first training, compile it once:
    the others wait for the first and load its code.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp(), _sources()
        path = Path(self._cache_path) / self._impl.filename_base
        self._index_lock, self._compile_lock = Path(f"{path}.lock"), Path(f"{path}.compile.lock")
        self._compiling = ExitStack()  # holds the compile lock from a miss until the kernel has been saved
        self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = self._load(sig, target_context)
        if found is None:
            self._compiling.enter_context(_locked(self._compile_lock, COMPILE_SECONDS))
            found = self._load(sig, target_context)  # another process may have compiled it meanwhile
            if found is not None:
                self._compiling.close()
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        with self._compiling, _locked(self._index_lock):
            super().save_overload(sig, data)

    def _load(self, sig: Any, target_context: Any) -> Any:
        with _locked(self._index_lock):
            return super().load_overload(sig, target_context)


@contextmanager
def _locked(path: Path, seconds: float = inf) -> Iterator[None]:
    """Hold a lock on a file, waiting for other processes up to `seconds`.

    Without a lock, because files cannot be locked or the time is over, continue like numba's own cache.
    """
    with ExitStack() as stack:
        with suppress(OSError, NameError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path, "a"))  # closing it unlocks
            give_up = time.monotonic() + seconds
            while not _try_to_lock(file) and time.monotonic() < give_up:
                time.sleep(0.01)
        yield


def _try_to_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
