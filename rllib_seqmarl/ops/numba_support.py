"""Access to numba kernels: whether they can run, and threads over the batch. Does not import numba.

Kernels are plain loops whose innermost index runs over channels, so that LLVM vectorises them. They are compiled on
first use and kept in numba's cache, so later processes start without compiling. They release the GIL and run on
ordinary threads, as many as torch uses (`torch.set_num_threads`).
"""

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
# Less work than this many elements is not worth a second thread.
WORK_PER_THREAD = 1 << 18


def numba_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why numba's kernels cannot run on such tensors, with a remedy, or None if they can."""
    if device.type != "cpu":
        return f"its kernels are for the CPU, but the tensors are on {device.type}"
    if dtype not in (torch.float32, torch.float64):
        return f"its kernels support float32 and float64, not {str(dtype).removeprefix('torch.')}"
    if not HAS_NUMBA:
        return "numba is not installed; `pip install numba`"
    return None


def numba_backend(module: str, function: str) -> Backend:
    """The backend "numba", implemented by ``function`` in a ``module`` that imports numba."""
    return Backend(
        "numba", lambda: getattr(import_module(module), function), numba_obstacle, "kernels compiled for this CPU"
    )


def rows(x: Tensor) -> Any:
    """(batch, channels, length) as a numpy array (batch, length, channels); no copy if channels are adjacent."""
    return x.detach().mT.contiguous().numpy()


NO_RESETS = torch.empty(0, 0, dtype=torch.bool).numpy()


def flags(resets: Tensor | None) -> Any:
    """(batch, length) resets as a numpy array; an empty one if there are none, since kernels expect an array."""
    return NO_RESETS if resets is None else resets.contiguous().numpy()


def arrays(*tensors: Tensor) -> list[Any]:
    """Tensors as contiguous numpy arrays, without a copy where possible."""
    return [x.detach().contiguous().numpy() for x in tensors]


@lru_cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="rllib_seqmarl_scan")


def over_batch(kernel: Callable[..., Any], batch_size: int, work: int, *args: Any) -> list[Any]:
    """Run ``kernel(begin, end, *args)`` on one share of the batch per thread, and return the results of all shares.

    ``work`` is the number of elements in the whole batch; it determines the number of threads.
    """
    shares = max(1, min(torch.get_num_threads(), batch_size, work // WORK_PER_THREAD))
    if shares == 1:
        return [kernel(0, batch_size, *args)]
    bounds = [batch_size * i // shares for i in range(shares + 1)]
    pool = _threads(torch.get_num_threads())
    return [f.result() for f in [pool.submit(kernel, bounds[i], bounds[i + 1], *args) for i in range(shares)]]
