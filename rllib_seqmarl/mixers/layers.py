"""Linear layers with the networks' initialisation."""

import math

import torch
from torch import nn

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
