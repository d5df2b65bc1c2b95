"""The multilayer perceptron of MAPPO, and its evaluation for a team in which every agent has its own."""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_seqmarl.mixers.layers import linear

# Activations, and the gain of orthogonal weights before them: torch's `calculate_gain`; for GELU that of ReLU.
ACTIVATIONS: dict[str, tuple[type[nn.Module], float]] = {
    "relu": (nn.ReLU, math.sqrt(2.0)),
    "tanh": (nn.Tanh, 5.0 / 3.0),
    "gelu": (nn.GELU, math.sqrt(2.0)),
}


def mlp(n_inputs: int, hidden_sizes: Sequence[int], n_outputs: int, activation: str, gain: float) -> nn.Sequential:
    """LayerNorm; per hidden layer Linear, activation, LayerNorm; Linear with weights of the given gain.

    This is the network of MAPPO's published code (Yu et al. 2022, arXiv 2103.01955).
    """
    function, hidden_gain = ACTIVATIONS[activation]
    layers: list[nn.Module] = [nn.LayerNorm(n_inputs)]
    for size in hidden_sizes:
        layers += linear(n_inputs, size, gain=hidden_gain), function(), nn.LayerNorm(size)
        n_inputs = size
    return nn.Sequential(*layers, linear(n_inputs, n_outputs, gain=gain))


def apply_each(networks: Sequence[nn.Sequential], x: Tensor) -> Tensor:
    """Apply the i-th of n networks of :func:`mlp` of equal shape, or the only one, to agent i.

    One matrix product per layer for all agents. Maps (..., n, inputs) to (..., n, outputs).
    """
    if len(networks) == 1:
        y: Tensor = networks[0](x)
        return y
    axes = x.shape[:-2]
    x = x.flatten(0, -3).transpose(0, 1)  # (n, B, inputs)
    for layers in zip(*networks, strict=True):
        if not isinstance(layers[0], nn.Linear | nn.LayerNorm):
            x = layers[0](x)
            continue
        weight, bias = (torch.stack([cast(Tensor, getattr(layer, name)) for layer in layers]) for name in _PARAMETERS)
        bias = bias.unsqueeze(1)  # (n, 1, outputs)
        if isinstance(layers[0], nn.Linear):
            x = torch.baddbmm(bias, x, weight.mT)  # (n, B, outputs)
        else:
            x = torch.addcmul(bias, F.layer_norm(x, x.shape[-1:], eps=layers[0].eps), weight.unsqueeze(1))
    return x.transpose(0, 1).unflatten(0, axes)


_PARAMETERS = ("weight", "bias")
