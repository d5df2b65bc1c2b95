"""numba's cache of compiled kernels, made fit for several processes and for kernels that call those of other files."""

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
    """Names, times and sizes of all files that kernels are written in."""
    folder = Path(__file__).parent
    stats = [(file.relative_to(folder).as_posix(), file.stat()) for file in sorted(folder.rglob("*.py"))]
    return tuple((name, stat.st_mtime, stat.st_size) for name, stat in stats)


class SharedCache(FunctionCache):
    """Of one function. It differs from numba's own in two ways.

    What is in it is stale when any file of ``ops`` has changed: a kernel contains those that it calls, and numba looks
    at the file of the function alone.

    One process at a time reads or writes it. numba's own gives what is compiled a name that the index does not have
    yet, so two processes that compile a kernel for float32 and float64 at once can take the same one; ever after, one
    of the two types is then answered with the code of the other.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp(), _sources()
        self._lock = Path(self._cache_path) / f"{self._impl.filename_base}.lock"
        self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with self._alone():
            return super().load_overload(sig, target_context)

    def save_overload(self, sig: Any, data: Any) -> None:
        with self._alone():
            super().save_overload(sig, data)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Waits for the other processes. Where files cannot be locked, it goes on like numba's own."""
        with ExitStack() as stack:
            with suppress(OSError, NameError):
                self._lock.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(self._lock, "a"))  # closing it unlocks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
