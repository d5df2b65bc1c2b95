"""Compiled kernels are cached between processes, invalidated by changes, and stored under distinct names."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

numba = pytest.importorskip("numba")

import numpy as np  # noqa: E402
from numba.core.caching import IndexDataCacheFile  # noqa: E402

from rllib_seqmarl.ops import numba_cache  # noqa: E402
from rllib_seqmarl.ops.numba_math import kernel  # noqa: E402


def double(x):
    return x + x


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def count_hits(function, *args):
    """Call the function with each argument and return its number of cache hits."""
    for arg in args:
        assert function(arg) == 2 * arg
    return sum(function.stats.cache_hits.values())


def test_compiled_code_is_cached():
    assert count_hits(kernel(double), np.float32(1.5), 2.5) == 0
    assert count_hits(kernel(double), np.float32(1.5), 2.5) == 2


def test_a_change_of_any_file_invalidates_all_kernels(monkeypatch):
    """A kernel contains the code of those that it calls."""
    count_hits(kernel(double), 2.5)
    changed = [(name, time + 1, size) for name, time, size in numba_cache._sources()]
    assert {"networks/decoding/tiles.py", "ops/wkv4_numba.py"} <= {name for name, *_ in changed}
    monkeypatch.setattr(numba_cache, "_sources", lambda: tuple(changed))
    assert count_hits(kernel(double), 2.5) == 0
    assert count_hits(kernel(double), 2.5) == 1


def test_concurrent_compilation_for_two_types_keeps_them_apart(tmp_path, monkeypatch):
    """Without locking, both would read an index without the other's entry and choose the same name."""
    compiled = []
    for signature in (numba.float32, numba.float64):
        compiled.append(kernel(double))
        compiled[-1].compile((signature,))
    (tmp_path / "others").mkdir()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "others"))
    both, load = threading.Barrier(2), IndexDataCacheFile._load_index

    def load_simultaneously(self):
        index = load(self)
        with suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.2)
        return index

    def save(dispatcher):
        ((signature, overload),) = dispatcher.overloads.items()
        numba_cache.SharedCache(double).save_overload(signature, overload)

    monkeypatch.setattr(IndexDataCacheFile, "_load_index", load_simultaneously)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(save, compiled))
    monkeypatch.setattr(IndexDataCacheFile, "_load_index", load)
    assert count_hits(kernel(double), np.float32(1.5), 2.5) == 2


def test_processes_that_need_a_kernel_at_the_same_time_compile_it_once(tmp_path, monkeypatch):
    """Two cache objects stand for two processes: in one process, numba compiles in one thread at a time."""
    compiled = kernel(double)
    compiled.compile((numba.float64,))
    ((signature, overload),) = compiled.overloads.items()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "others"))
    first, second = numba_cache.SharedCache(double), numba_cache.SharedCache(double)
    assert first.load_overload(signature, compiled.targetctx) is None
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(second.load_overload, signature, compiled.targetctx)
        with pytest.raises(TimeoutError):
            loading.result(timeout=0.2)
        first.save_overload(signature, overload)
        assert loading.result(timeout=10) is not None


def test_a_kernel_whose_compilation_hangs_elsewhere_is_compiled(monkeypatch):
    monkeypatch.setattr(numba_cache, "COMPILE_SECONDS", 0.1)
    compiled = kernel(double)
    hanging = numba_cache.SharedCache(double)
    assert hanging.load_overload((numba.float64,), compiled.targetctx) is None
    assert count_hits(compiled, 2.5) == 0
    assert count_hits(kernel(double), 2.5) == 1


def test_cache_works_without_locks(monkeypatch):
    def refuse(*args):
        raise PermissionError

    monkeypatch.setattr(numba_cache, "open", refuse, raising=False)
    assert count_hits(kernel(double), 2.5) == 0
    assert count_hits(kernel(double), 2.5) == 1
