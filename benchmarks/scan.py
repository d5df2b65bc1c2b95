"""The selective scan, forward and backward: every available backend, and the fastest compared to its lower bounds.

    python benchmarks/scan.py [--repeats 20] [--device cpu]

Size: batch 800, length 8, dim 128, state 16. Timings alternate in one process with attention of the same width, and
with mambapy's parallel scan if it is installed (`pip install mambapy`). Two lower bounds of the time on one core:

- memory: reading inputs and writing outputs once in each direction, at the speed of a copy;
- arithmetic: two exponentials per token, channel and state (one in each direction), at the speed of the kernels' own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn import functional as F

from rllib_seqmarl.ops.numba_math import exp2
from rllib_seqmarl.ops.selective_scan import SELECTIVE_SCAN, activated, selective_scan

BATCH, LENGTH, DIM, STATE = 800, 8, 128, 16


def inputs(device: str) -> list[Tensor]:
    """Return u, delta, A, B, C, D, z and delta_bias, with channels adjacent in memory."""
    u, delta, z = (torch.randn(BATCH, LENGTH, DIM, device=device).mT.requires_grad_() for _ in range(3))
    B, C = (torch.randn(BATCH, LENGTH, STATE, device=device).mT.requires_grad_() for _ in range(2))
    A = (-8 * torch.rand(DIM, STATE, device=device)).requires_grad_()
    D, bias = (torch.randn(DIM, device=device).requires_grad_() for _ in range(2))
    return [u, delta, A, B, C, D, z, bias]


def mambapy_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor
) -> Tensor:
    """Compute the scan by mambapy's parallel scan, which takes (batch, length, dim, state)."""
    from mambapy.pscan import pscan

    dt = activated(delta, bias, True).mT  # (batch, length, dim)
    decays = torch.exp(dt.unsqueeze(-1) * A)
    states = pscan(decays, (dt * u.mT).unsqueeze(-1) * B.mT.unsqueeze(2))
    y = (states @ C.mT.unsqueeze(-1)).squeeze(-1) + D * u.mT
    return (y * F.silu(z.mT)).mT


def milliseconds(function: Callable[[], object], device: str) -> float:
    """Return the CPU time of a call; on CUDA, the time until the device is done."""
    if device == "cpu":
        start = time.process_time()
        function()
        return 1e3 * (time.process_time() - start)
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


@njit(fastmath=True)
def exponentials(x: np.ndarray, repeats: int) -> float:
    """Compute `repeats` exponentials per element of x, which fits in the cache."""
    total = x.dtype.type(0)
    for _ in range(repeats):
        for i in range(x.size):
            total += exp2(x[i])
    return total


def floors(arguments: list[Tensor]) -> tuple[float, float]:
    """Return the milliseconds of memory access alone and of exponentials alone on one core."""
    # Forward: reads all inputs, writes y. Backward: reads all inputs and the gradient of y, writes all gradients.
    transferred = 3 * sum(x.numel() for x in arguments) + 2 * BATCH * LENGTH * DIM
    source, target = torch.randn(2, 8_000_000)
    per_number = min(milliseconds(lambda: target.copy_(source), "cpu") for _ in range(5)) / (2 * source.numel())

    x = -np.random.default_rng(0).random(4096, dtype=np.float32)
    repeats = BATCH * LENGTH * DIM * STATE // x.size
    exponentials(x, 1)
    arithmetic = 2 * min(milliseconds(lambda: exponentials(x, repeats), "cpu") for _ in range(5))
    return per_number * transferred, arithmetic


def main() -> None:
    """Print a line per implementation, then the floors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="alternating timings of each (the median counts)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    arguments, grad_y = inputs(args.device), torch.randn(BATCH, LENGTH, DIM, device=args.device).mT
    tokens = torch.randn(BATCH, 1, LENGTH, DIM, device=args.device).requires_grad_()
    calls: dict[str, Callable[[], Tensor]] = {
        name: partial(selective_scan, *arguments, True, backend=name) for name in SELECTIVE_SCAN.available(args.device)
    }
    if find_spec("mambapy"):
        calls["mambapy"] = partial(mambapy_scan, *arguments)
    calls["attention"] = lambda: F.scaled_dot_product_attention(tokens, tokens, tokens).squeeze(1).mT

    def run(call: Callable[[], Tensor]) -> None:
        for x in (*arguments, tokens):
            x.grad = None
        call().backward(grad_y)

    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(args.repeats + 2):
        for name, call in calls.items():
            elapsed = milliseconds(partial(run, call), args.device)
            if repeat > 1:  # the first two compile and fill caches
                times[name].append(elapsed)
    medians = {name: statistics.median(row) for name, row in times.items()}
    fastest = min(medians[name] for name in SELECTIVE_SCAN.available(args.device))
    print(f"batch {BATCH}, length {LENGTH}, dim {DIM}, state {STATE}, {args.device}, one thread; forward and backward")
    for name, ms in medians.items():
        print(f"{name:>10} {ms:8.1f} ms {ms / fastest:6.1f}x")
    if args.device == "cpu":
        memory, arithmetic = floors(arguments)
        print(f"floors: memory {memory:.1f} ms, exponentials {arithmetic:.1f} ms; the fastest takes {fastest:.1f} ms")


if __name__ == "__main__":
    main()
