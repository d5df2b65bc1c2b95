"""Norms of rows for kernels, and the packed parameters of norms."""

import math
from typing import Any

import numpy as np
from torch import nn

from rllib_seqmarl.networks.decoding.tiles import array
from rllib_seqmarl.ops.numba_math import kernel


def norm_weights(norm: nn.LayerNorm | nn.RMSNorm) -> Any:
    """Pack a norm for :func:`normalise`: gain, epsilon repeated in every column and, of a LayerNorm, bias."""
    gain = array(norm.weight)
    if isinstance(norm, nn.RMSNorm):
        return np.stack([gain, np.full_like(gain, norm.eps)])  # (2, dim)
    bias = np.zeros_like(gain) if norm.bias is None else array(norm.bias)
    return np.stack([gain, np.full_like(gain, norm.eps), bias])  # (3, dim)


@kernel
def layer_norm(x: Any, row: Any, norm: Any, y: Any, to: Any) -> None:
    """y[to, :dim] = the LayerNorm of x[row, :dim], possibly in place. ``norm`` as by :func:`norm_weights`."""
    dim = norm.shape[1]
    zero, one = norm.dtype.type(0), norm.dtype.type(1)
    share = one / norm.dtype.type(dim)
    total = zero
    for i in range(dim):
        total += x[row, i]
    mean = total * share
    total = zero
    for i in range(dim):
        total += (x[row, i] - mean) * (x[row, i] - mean)
    scale = one / math.sqrt(total * share + norm[1, 0])
    for i in range(dim):
        y[to, i] = (x[row, i] - mean) * scale * norm[0, i] + norm[2, i]


@kernel
def rms_norm(x: Any, row: Any, norm: Any, y: Any, to: Any) -> None:
    """y[to, :dim] = the RMSNorm of x[row, :dim], as in :func:`layer_norm`."""
    dim = norm.shape[1]
    zero, one = norm.dtype.type(0), norm.dtype.type(1)
    total = zero
    for i in range(dim):
        total += x[row, i] * x[row, i]
    scale = one / math.sqrt(total / norm.dtype.type(dim) + norm[1, 0])
    for i in range(dim):
        y[to, i] = x[row, i] * scale * norm[0, i]


@kernel
def normalise(x: Any, row: Any, norm: Any, y: Any, to: Any) -> None:
    """y[to, :dim] = the norm of x[row, :dim], of either kind, as in :func:`layer_norm`."""
    if len(norm) == 2:
        rms_norm(x, row, norm, y, to)
    else:
        layer_norm(x, row, norm, y, to)
