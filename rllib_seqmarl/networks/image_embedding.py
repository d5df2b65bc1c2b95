"""A small convolutional network that embeds image observations as vectors."""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from rllib_seqmarl.mixers.layers import ACTIVATED_GAIN

if TYPE_CHECKING:
    from rllib_seqmarl.networks.policy_config import PolicyConfig

ImageShape = tuple[int, int, int]  # height, width, channels
ConvFilters = tuple[tuple[int, int, int], ...]  # output channels, kernel size, stride per layer

NATURE: ConvFilters = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # Mnih et al. 2015, for images of 84 x 84
SMALL: ConvFilters = ((32, 4, 2), (64, 3, 2))
HALVING = (16, 4, 2)
MAX_SIDE = 96  # longer sides are halved first
MIN_SIDE_NATURE, MIN_SIDE_SMALL = 36, 8  # the last layer's output is at least 1 x 1


def default_filters(image_shape: ImageShape) -> ConvFilters:
    """Select layers for an image of this size; all of them use valid padding.

    Large images are halved until no side is longer than 96. Then follow the three layers that Mnih et al. (2015) used
    for Atari's 84 x 84 images, or two layers with smaller kernels if a side is shorter than 36.
    """
    filters: ConvFilters = ()
    height, width, _ = image_shape
    halved = feature_shape(image_shape, (HALVING,))
    while max(height, width) > MAX_SIDE and min(halved[:2]) >= MIN_SIDE_SMALL:
        filters = (*filters, HALVING)
        height, width, _ = halved
        halved = feature_shape(halved, (HALVING,))
    return filters + (NATURE if min(height, width) >= MIN_SIDE_NATURE else SMALL)


def feature_shape(image_shape: ImageShape, filters: ConvFilters) -> ImageShape:
    """Height, width and channels of the layers' output; a side of 0 or less if the image is too small."""
    height, width, channels = image_shape
    for channels, kernel, stride in filters:  # noqa: B007, the last value is used
        height, width = ((side - kernel) // stride + 1 for side in (height, width))
        if min(height, width) < 1:
            break
    return height, width, channels


class ImageEmbedding(nn.Module):
    """Embeds observations that begin with the pixels of an image: (B, n, h * w * c + k) to (B, n, out_features + k).

    Pixels are in the order (h, w, c) and range from 0 to 255; they are scaled to 0 to 1. The k further numbers, such as
    the agent's id, are passed through.
    """

    def __init__(self, image_shape: ImageShape, filters: ConvFilters) -> None:
        super().__init__()
        self.image_shape = image_shape
        inputs = (image_shape[2], *(channels for channels, _, _ in filters))
        layers = [_convolution(channels, *layer) for channels, layer in zip(inputs, filters, strict=False)]
        self.layers = nn.Sequential(*chain.from_iterable((layer, nn.ReLU()) for layer in layers))
        height, width, channels = feature_shape(image_shape, filters)
        self.out_features = height * width * channels

    @classmethod
    def of(cls, config: PolicyConfig) -> tuple[Self | None, int]:
        """The embedding of a policy's images, None without images, and the width of the embedded observations."""
        if config.image_shape is None:
            return None, config.obs_dim
        image = cls(config.image_shape, config.image_filters)
        return image, config.obs_dim + image.out_features - math.prod(config.image_shape)

    def forward(self, obs: Tensor) -> Tensor:
        height, width, channels = self.image_shape
        size = height * width * channels
        dtype = next(self.parameters()).dtype
        pixels = obs[..., :size].to(dtype) / 255.0  # (B, n, h * w * c)
        images = pixels.reshape(-1, height, width, channels).permute(0, 3, 1, 2)  # (B * n, c, h, w)
        features = self.layers(images).reshape(*obs.shape[:-1], self.out_features)
        return torch.cat([features, obs[..., size:].to(dtype)], dim=-1)


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride)
    nn.init.orthogonal_(layer.weight, ACTIVATED_GAIN)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
