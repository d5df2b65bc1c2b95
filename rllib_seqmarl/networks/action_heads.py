"""Action heads of the decoder: a distribution over actions, its layers, and how an agent's action becomes a token."""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu

from rllib_seqmarl.mixers.layers import ACTIVATED_GAIN, linear
from rllib_seqmarl.networks.distributions import Categorical, Distribution, Gaussian
from rllib_seqmarl.networks.policy_config import ActionSpec
from rllib_seqmarl.registration import Registry


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

    activation: Callable[[Tensor], Tensor] = staticmethod(gelu)
    """Of tokens."""

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
        table = torch.empty(1 + spec.width, embed_dim)
        nn.init.orthogonal_(table, ACTIVATED_GAIN)
        self.start_row = nn.Parameter(table[0].clone())  # (d,)
        self.choice_rows = nn.Parameter(table[1:].clone())  # (width, d)

    def start(self, batch_size: int) -> Tensor:
        return self.activation(self.start_row).expand(batch_size, -1)  # (B, d)

    def embedder(self) -> Callable[[Tensor], Tensor]:
        if self.is_single:  # apply the GELU to the few rows of the table instead of every token
            activated_rows = self.activation(self.choice_rows)
            return lambda actions: embedding(actions, activated_rows)
        return lambda actions: self.activation(embedding(actions + self.offsets, self.choice_rows).sum(-2))


class GaussianHead(ActionHead, Gaussian):
    """An independent Normal(mean, 0.5 * sigmoid(log_std)) per action dimension."""

    log_std: nn.Parameter

    def __init__(self, spec: ActionSpec, embed_dim: int) -> None:
        super().__init__(spec, embed_dim)
        self.action_embedding = linear(spec.dim, embed_dim, gain=ACTIVATED_GAIN)

    def start(self, batch_size: int) -> Tensor:
        return self.embedder()(self.log_std.new_zeros(batch_size, self.spec.dim))  # (B, d)

    def embedder(self) -> Callable[[Tensor], Tensor]:
        return lambda actions: self.activation(self.action_embedding(actions.to(self.log_std.dtype)))


HEADS: Registry[type[ActionHead]] = Registry("head", {"categorical": CategoricalHead, "gaussian": GaussianHead})
DEFAULT_HEADS = {"discrete": "categorical", "continuous": "gaussian"}


def register_head(name: str, head: type[ActionHead]) -> None:
    """Register an action head of the sequence policy under a name, for `network(head=name)`; see `register_mixer`.

    Args:
        name: The name.
        head: A class that derives from `ActionHead`, or from one of the built-in heads, and takes the same arguments.

    Raises:
        ValueError: The name is taken by another head, or is not a non-empty string.
        TypeError: `head` is not a head.
    """
    if not (isinstance(head, type) and issubclass(head, ActionHead)):
        raise TypeError(f"register_head({name!r}, ...) takes a class that derives from ActionHead, not {head!r}.")
    HEADS.add(name, head)
