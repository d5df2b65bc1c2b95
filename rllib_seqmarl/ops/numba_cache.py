"""numba's kernel cache, made safe for concurrent processes and for kernels that call kernels in other files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

with suppress(ImportError):  # Windows has none
    import fcntl


@cache
def _sources() -> tuple[tuple[str, float, int], ...]:
    """Names, modification times and sizes of all files that may contain kernels."""
    folder = Path(__file__).parent
    stats = [(file.relative_to(folder).as_posix(), file.stat()) for file in sorted(folder.rglob("*.py"))]
    return tuple((name, stat.st_mtime, stat.st_size) for name, stat in stats)


class SharedCache(FunctionCache):
    """The cache of one function. It differs from numba's own in two ways.

    Entries are stale as soon as any file of ``ops`` has changed: a kernel contains the kernels it calls, but numba
    checks the file of the function only.

    Only one process at a time reads or writes it. numba names an entry by the next number that is free in the index, so
    two processes that compile a kernel for float32 and float64 at the same time can choose the same name; from then on,
    one of the two types gets the code of the other.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp(), _sources()
        self._lock = Path(self._cache_path) / f"{self._impl.filename_base}.lock"
        self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with self._locked():
            return super().load_overload(sig, target_context)

    def save_overload(self, sig: Any, data: Any) -> None:
        with self._locked():
            super().save_overload(sig, data)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Wait for other processes. If files cannot be locked, continue without a lock, as numba does."""
        with ExitStack() as stack:
            with suppress(OSError, NameError):
                self._lock.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(self._lock, "a"))  # closing it unlocks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
