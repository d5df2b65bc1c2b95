"""Action heads of the decoder: a distribution over actions, its layers, and how an agent's action becomes a token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu

from rllib_seqmarl.mixers.layers import ACTIVATED_GAIN, linear
from rllib_seqmarl.networks.config import ActionSpec
from rllib_seqmarl.networks.distributions import Categorical, Distribution, Gaussian


def output_head(embed_dim: int, width: int) -> nn.Sequential:
    """Linear -> GELU -> LayerNorm -> Linear, as in MAT's value and policy heads."""
    return nn.Sequential(
        linear(embed_dim, embed_dim, gain=ACTIVATED_GAIN),
        nn.GELU(),
        nn.LayerNorm(embed_dim),
        linear(embed_dim, width),
    )


class ActionHead(Distribution):
    """Maps features to scores and actions to tokens."""

    def __init__(self, spec: ActionSpec, embed_dim: int) -> None:
        super().__init__(spec)
        self.policy = output_head(embed_dim, spec.width)

    @abstractmethod
    def start(self, batch_size: int) -> Tensor:
        """The start token (B, d), used as the first agent's predecessor."""

    @abstractmethod
    def embedder(self) -> Callable[[Tensor], Tensor]:
        """Return a function from actions (..., *action_shape) to their embeddings (..., d).

        Computation that does not depend on the actions is done here, once for all calls of the function.
        """

    def shifted(self, actions: Tensor) -> Tensor:
        """The decoder's input (B, n, d): the action of agent t-1 for agent t, the start token for agent 0."""
        return torch.cat([self.start(actions.shape[0]).unsqueeze(1), self.embedder()(actions[:, :-1])], dim=1)


class CategoricalHead(ActionHead, Categorical):
    """One or several independent choices per agent."""

    def __init__(self, spec: ActionSpec, embed_dim: int) -> None:
        super().__init__(spec, embed_dim)
        # A one-hot vector times a matrix selects a row, so the token embedding is a table with the start flag first.
        table = torch.empty(spec.token_dim, embed_dim)
        nn.init.orthogonal_(table, ACTIVATED_GAIN)
        self.start_row = nn.Parameter(table[0].clone())  # (d,)
        self.choice_rows = nn.Parameter(table[1:].clone())  # (width, d)

    def start(self, batch_size: int) -> Tensor:
        return gelu(self.start_row).expand(batch_size, -1)  # (B, d)

    def embedder(self) -> Callable[[Tensor], Tensor]:
        if self.is_single:  # apply the GELU to the few rows of the table instead of every token
            activated_rows = gelu(self.choice_rows)
            return lambda actions: embedding(actions, activated_rows)
        return lambda actions: gelu(embedding(actions + self.offsets, self.choice_rows).sum(-2))


class GaussianHead(ActionHead, Gaussian):
    """An independent Normal(mean, 0.5 * sigmoid(log_std)) per action dimension."""

    log_std: nn.Parameter

    def __init__(self, spec: ActionSpec, embed_dim: int) -> None:
        super().__init__(spec, embed_dim)
        self.action_embedding = linear(spec.dim, embed_dim, gain=ACTIVATED_GAIN)

    def start(self, batch_size: int) -> Tensor:
        return self.embedder()(self.log_std.new_zeros(batch_size, self.spec.dim))  # (B, d)

    def embedder(self) -> Callable[[Tensor], Tensor]:
        return lambda actions: gelu(self.action_embedding(actions.to(self.log_std.dtype)))
