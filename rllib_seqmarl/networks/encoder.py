"""The encoder: turns each agent's observation into a representation, mixed among agents, and a value."""

from __future__ import annotations

import math

from torch import Tensor, nn

from rllib_seqmarl.mixers import PreNormMixers
from rllib_seqmarl.mixers.layers import ACTIVATED_GAIN, linear
from rllib_seqmarl.networks.action_heads import output_head
from rllib_seqmarl.networks.blocks import PostNormEncoderBlock, PreNormBlock
from rllib_seqmarl.networks.config import NetworkConfig
from rllib_seqmarl.networks.image_embedding import ImageEmbedding


class Encoder(nn.Module):
    """Maps observations (B, n, obs_dim) to representations (B, n, d), and those to values (B, n)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d, n_features = config.embed_dim, config.obs_dim + config.state_dim
        self.image: ImageEmbedding | None = None
        if config.image_shape is not None:
            self.image = ImageEmbedding(config.image_shape, config.image_filters)
            n_features += self.image.out_features - math.prod(config.image_shape)
        self.embedding = nn.Sequential(
            nn.LayerNorm(n_features),
            linear(n_features, d, gain=ACTIVATED_GAIN),
            nn.GELU(),
            nn.LayerNorm(d),
        )
        mixers = config.encoder_mixers
        shapes = config.shapes(mixers)
        if isinstance(mixers, PreNormMixers):
            bidirectional = config.encoder_directions == 2
            self.blocks = nn.Sequential(*(PreNormBlock(mixers, shape, bidirectional) for shape in shapes))
            self.blocks.append(nn.LayerNorm(d, bias=False))
        else:
            self.blocks = nn.Sequential(*(PostNormEncoderBlock(mixers, shape) for shape in shapes))
        self.value = output_head(d, 1)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Representations (B, n, d) and values (B, n) of ``obs`` (B, n, obs_dim)."""
        if self.image is not None:
            obs = self.image(obs)  # (B, n, image features and further entries)
        encoder_output = self.blocks(self.embedding(obs))  # (B, n, d)
        return encoder_output, self.value(encoder_output).squeeze(-1)
