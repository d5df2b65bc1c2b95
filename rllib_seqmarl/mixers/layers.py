"""Linear layers with the networks' initialisation, and fast functional forms of layers for decoding."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# For a layer followed by a rectifying activation, which halves the variance.
ACTIVATED_GAIN = math.sqrt(2.0)


def linear(in_features: int, *out_features: int, gain: float = 0.01, bias: bool = True) -> nn.Linear:
    """A linear layer with orthogonal weights of the given gain and zero biases (the initialisation of MAT).

    Several ``out_features`` merge several layers into one: one matrix product instead of many, while each
    part is initialised as a separate orthogonal layer.
    """
    layer = nn.Linear(in_features, sum(out_features), bias=bias)
    with torch.no_grad():
        for part in layer.weight.split(out_features):
            nn.init.orthogonal_(part, gain)
        if bias:
            layer.bias.zero_()
    return layer


def bound(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return ``layer`` as a plain function bound to its weights.

    On the few tokens of a decoding step, a module spends as long on looking up its parameters and hooks as on
    arithmetic. Bind before the loop; weights replaced afterwards are ignored.
    """
    match layer:
        case nn.Linear(weight=weight, bias=bias):
            return lambda x: F.linear(x, weight, bias)
        case nn.LayerNorm(normalized_shape=shape, weight=weight, bias=bias, eps=eps):
            return lambda x: torch.layer_norm(x, shape, weight, bias, eps)
        case nn.RMSNorm(normalized_shape=shape, weight=weight, eps=epsilon):
            return lambda x: torch.rms_norm(x, shape, weight, epsilon)
        case nn.GELU(approximate="none"):
            return F.gelu
        case nn.Sequential():
            layers = [bound(inner) for inner in layer]

            def chain(x: Tensor) -> Tensor:
                for function in layers:
                    x = function(x)
                return x

            return chain
    return layer
