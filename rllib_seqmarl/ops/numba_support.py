"""Access to numba kernels: whether they can run, and threads over the batch. Does not import numba.

Kernels are plain loops whose innermost index runs over channels, so that LLVM turns them into vector instructions.
They are compiled on first use and kept in numba's cache, so later processes start without compiling. They release
the interpreter lock and are started from ordinary threads, as many as torch uses (`torch.set_num_threads`).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from rllib_seqmarl.ops.backends import Backend

HAS_NUMBA = find_spec("numba") is not None
# Fewer elements of work than this are not worth a second thread.
WORK_PER_THREAD = 1 << 18


def numba_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why numba's kernels cannot run on such tensors, with the remedy."""
    if device.type != "cpu":
        return f"its kernels are for the CPU, and the tensors are on {device.type}"
    if dtype not in (torch.float32, torch.float64):
        return f"its kernels are for float32 and float64, not {str(dtype).removeprefix('torch.')}"
    if not HAS_NUMBA:
        return "numba is not installed; `pip install numba`"
    return None


def numba_backend(module: str, function: str) -> Backend:
    """The backend "numba", which is ``function`` of a ``module`` of this package."""

    def load() -> Callable[..., Any]:
        loaded: Callable[..., Any] = getattr(import_module(f"rllib_seqmarl.ops.{module}"), function)
        return loaded

    return Backend("numba", load, numba_obstacle, "kernels compiled for this CPU")


def rows(x: Tensor) -> Any:
    """(batch, channels, length) as a numpy array (batch, length, channels); no copy if channels are adjacent."""
    return x.detach().mT.contiguous().numpy()


@lru_cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="rllib_seqmarl_scan")


def over_batch(kernel: Callable[..., Any], batch_size: int, work: int, *args: Any) -> list[Any]:
    """Runs ``kernel(begin, end, *args)`` on shares of the batch, one share per thread; returns every share's result.

    ``work`` is the number of elements in the whole batch, from which the number of threads follows.
    """
    shares = max(1, min(torch.get_num_threads(), batch_size, work // WORK_PER_THREAD))
    if shares == 1:
        return [kernel(0, batch_size, *args)]
    bounds = [batch_size * i // shares for i in range(shares + 1)]
    pool = _threads(torch.get_num_threads())
    return [f.result() for f in [pool.submit(kernel, bounds[i], bounds[i + 1], *args) for i in range(shares)]]
