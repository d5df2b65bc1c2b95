"""RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467): x / sqrt(mean(x^2) + eps) * weight."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rllib_seqmarl.ops.backends import AUTO, Operation, check_shapes, reference_backend
from rllib_seqmarl.ops.numba_support import numba_backend


def rms_norm(x: Tensor, weight: Tensor, eps: float, backend: str = AUTO) -> Tensor:
    """Normalise the last dimension.

    Args:
        x: (..., dim).
        weight: (dim,).
        eps: Is added to the mean of squares.
        backend: As in :mod:`rllib_seqmarl.ops`.
    """
    check_shapes("x", x, weight=(weight, x.shape[-1:]))
    if x.dtype != weight.dtype or torch.is_autocast_enabled(x.device.type):
        return reference_rms_norm(x, weight, eps)
    y: Tensor = RMS_NORM.choose(backend, x)(x, weight, eps)
    return y


def reference_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Torch's own, which on CPUs is a chain of operations."""
    return F.rms_norm(x, weight.shape, weight, eps)


class RMSNorm(nn.RMSNorm):
    """A layer of :func:`rms_norm`."""

    eps: float

    def __init__(self, dim: int, eps: float, backend: str = AUTO) -> None:
        super().__init__(dim, eps=eps)
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps, self.backend)


RMS_NORM = Operation(
    "rms_norm",
    [
        numba_backend("rllib_seqmarl.ops.rms_norm_numba", "numba_rms_norm"),
        reference_backend(reference_rms_norm, "plain torch"),
    ],
    auto_aliases=("mamba-ssm", "fla"),
)
