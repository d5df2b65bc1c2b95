"""Compiled kernels are kept between processes, fresh and each under its own name."""

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


def hits_of(function, *args):
    """How many of the calls found code in the cache."""
    for arg in args:
        assert function(arg) == 2 * arg
    return sum(function.stats.cache_hits.values())


def test_another_process_finds_what_one_has_compiled():
    assert hits_of(kernel(double), np.float32(1.5), 2.5) == 0
    assert hits_of(kernel(double), np.float32(1.5), 2.5) == 2


def test_a_change_of_any_file_makes_all_kernels_anew(monkeypatch):
    """A kernel contains the code of those that it calls."""
    hits_of(kernel(double), 2.5)
    changed = [(name, time + 1, size) for name, time, size in numba_cache._sources()]
    assert "decoding/tiles.py" in {name for name, *_ in changed}
    monkeypatch.setattr(numba_cache, "_sources", lambda: tuple(changed))
    assert hits_of(kernel(double), 2.5) == 0
    assert hits_of(kernel(double), 2.5) == 1


def test_processes_that_compile_for_two_types_at_once_do_not_mix_them_up(tmp_path, monkeypatch):
    """Each would read an index without the other's entry and take the same name, unless one waits."""
    compiled = []
    for sort in (numba.float32, numba.float64):
        compiled.append(kernel(double))
        compiled[-1].compile((sort,))
    (tmp_path / "others").mkdir()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "others"))
    both, load = threading.Barrier(2), IndexDataCacheFile._load_index

    def load_together(self):
        index = load(self)
        with suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.2)
        return index

    def save(dispatcher):
        ((sort, overload),) = dispatcher.overloads.items()
        numba_cache.SharedCache(double).save_overload(sort, overload)

    monkeypatch.setattr(IndexDataCacheFile, "_load_index", load_together)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(save, compiled))
    monkeypatch.setattr(IndexDataCacheFile, "_load_index", load)
    assert hits_of(kernel(double), np.float32(1.5), 2.5) == 2


def test_where_nothing_can_be_locked_numba_goes_on(monkeypatch):
    def refuse(*args):
        raise PermissionError

    monkeypatch.setattr(numba_cache, "open", refuse, raising=False)
    assert hits_of(kernel(double), 2.5) == 0
    assert hits_of(kernel(double), 2.5) == 1
