"""Action heads: how an agent's action becomes a token, and how features become a distribution over actions.

Two heads with one interface. A head draws no random numbers inside the decoding loop: noise is drawn for
the whole team beforehand, and choosing is a deterministic function of scores and noise (arg max with
Gumbel noise; mean plus scaled normal noise). Log-probabilities are computed after the loop, for the whole
team, by the same code as in training.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu

from rllib_seqmarl.mixers.layers import ACTIVATED_GAIN, linear
from rllib_seqmarl.networks.config import ActionSpec

ILLEGAL_LOGIT = -1e10


def output_head(embed_dim: int, width: int) -> nn.Sequential:
    """Linear -> GELU -> LayerNorm -> Linear, as in MAT's value and policy heads."""
    return nn.Sequential(
        linear(embed_dim, embed_dim, gain=ACTIVATED_GAIN),
        nn.GELU(),
        nn.LayerNorm(embed_dim),
        linear(embed_dim, width),
    )


class ActionHead(nn.Module, ABC):
    """Maps features to scores and actions to tokens. Scores are logits, or the mean of a Gaussian.

    ``action_mask`` is always (..., width) bool or None (everything is legal), as returned by :meth:`effective_mask`.
    """

    def __init__(self, spec: ActionSpec, embed_dim: int) -> None:
        super().__init__()
        self.spec = spec
        self.policy = output_head(embed_dim, spec.width)

    @abstractmethod
    def effective_mask(self, action_mask: Tensor | None, alive: Tensor | None) -> Tensor | None:
        """Combine ``action_mask`` (B, n, width) and ``alive`` (B, n), each bool, 0/1 or None, into one mask.

        A dead agent has a single legal action, choice 0 or zeros, so its log-probability and entropy are zero
        without special cases.
        """

    @abstractmethod
    def clean(self, actions: Tensor, alive: Tensor | None, action_mask: Tensor | None) -> Tensor:
        """Set the ignored parts of ``actions`` (dead agents, padding) to the only legal value."""

    @abstractmethod
    def start(self, batch_size: int) -> Tensor:
        """The start token (B, d), used as the first agent's predecessor."""

    @abstractmethod
    def embedder(self) -> Callable[[Tensor], Tensor]:
        """Return a function from actions (..., *action_shape) to their embeddings (..., d).

        Computation that does not depend on the actions is done here, once for all calls of the function.
        """

    @abstractmethod
    def scores(self, outputs: Tensor, action_mask: Tensor | None) -> Tensor:
        """Scores (..., width) from the outputs (..., width) of ``policy``."""

    @abstractmethod
    def noise(self, scores_shape: tuple[int, ...], action_mask: Tensor | None) -> Tensor:
        """Draw noise of that shape, such that :meth:`choose` samples exactly from the policy."""

    @abstractmethod
    def choose(self, scores: Tensor, noise: Tensor | None) -> Tensor:
        """Choose actions (..., *action_shape) for ``scores`` (..., width); without ``noise``, the most probable."""

    @abstractmethod
    def log_probs(self, scores: Tensor, actions: Tensor, action_mask: Tensor | None) -> Tensor:
        """Log-probabilities of ``actions``: (...) summed over choices, or (..., dim) when continuous."""

    @abstractmethod
    def entropy(self, scores: Tensor, action_mask: Tensor | None) -> Tensor:
        """Entropies in nats, in the shape of :meth:`log_probs`."""

    def shifted(self, actions: Tensor) -> Tensor:
        """The decoder's input (B, n, d): the action of agent t-1 for agent t, the start token for agent 0."""
        return torch.cat([self.start(actions.shape[0]).unsqueeze(1), self.embedder()(actions[:, :-1])], dim=1)


class CategoricalHead(ActionHead):
    """One or several independent choices per agent. Actions are int64."""

    first_choices: Tensor
    offsets: Tensor

    def __init__(self, spec: ActionSpec, embed_dim: int) -> None:
        super().__init__(spec, embed_dim)
        # A one-hot vector times a matrix selects a row, so the token embedding is a table with the start flag first.
        table = torch.empty(spec.token_dim, embed_dim)
        nn.init.orthogonal_(table, ACTIVATED_GAIN)
        self.start_row = nn.Parameter(table[0].clone())  # (d,)
        self.choice_rows = nn.Parameter(table[1:].clone())  # (width, d)
        offsets = torch.tensor((0, *spec.nvec[:-1])).cumsum(0)  # (k,) start of each component
        self.register_buffer("offsets", offsets, persistent=False)
        first_choices = torch.zeros(spec.width, dtype=torch.bool)
        first_choices[offsets] = True
        self.register_buffer("first_choices", first_choices, persistent=False)

    @property
    def is_single(self) -> bool:
        """Whether an agent makes one choice, so that actions have no component axis."""
        return len(self.spec.nvec) == 1

    def effective_mask(self, action_mask: Tensor | None, alive: Tensor | None) -> Tensor | None:
        mask = None if action_mask is None else action_mask.bool()
        if alive is None:
            return mask
        is_alive = alive.bool().unsqueeze(-1)  # (B, n, 1)
        if mask is None:
            return is_alive | self.first_choices
        return (is_alive & mask) | (~is_alive & self.first_choices)  # not torch.where: ONNX runtimes lack it for bool

    def clean(self, actions: Tensor, alive: Tensor | None, action_mask: Tensor | None) -> Tensor:
        if alive is None:
            return actions
        dead = ~alive.bool()
        return actions.masked_fill(dead if self.is_single else dead.unsqueeze(-1), 0)

    def start(self, batch_size: int) -> Tensor:
        return gelu(self.start_row).expand(batch_size, -1)  # (B, d)

    def embedder(self) -> Callable[[Tensor], Tensor]:
        if self.is_single:  # apply the GELU to the few rows of the table instead of every token
            activated_rows = gelu(self.choice_rows)
            return lambda actions: embedding(actions, activated_rows)
        return lambda actions: gelu(embedding(actions + self.offsets, self.choice_rows).sum(-2))

    def scores(self, outputs: Tensor, action_mask: Tensor | None) -> Tensor:
        return outputs if action_mask is None else torch.where(action_mask, outputs, ILLEGAL_LOGIT)

    def noise(self, scores_shape: tuple[int, ...], action_mask: Tensor | None) -> Tensor:
        # Gumbel noise (arg max of logits + noise is an exact sample). The bound avoids log(0).
        uniform = torch.rand(scores_shape, dtype=self.start_row.dtype, device=self.start_row.device)
        tiny = torch.finfo(uniform.dtype).tiny
        return uniform.clamp_(min=tiny).log_().neg_().clamp_(min=tiny).log_().neg_()

    def choose(self, scores: Tensor, noise: Tensor | None) -> Tensor:
        if noise is not None:
            scores = scores + noise
        if self.is_single:
            return scores.argmax(-1)
        return torch.stack([part.argmax(-1) for part in scores.split(self.spec.nvec, -1)], dim=-1)

    def log_probs(self, scores: Tensor, actions: Tensor, action_mask: Tensor | None) -> Tensor:
        choices = actions.unsqueeze(-1) if self.is_single else actions  # (..., k)
        choices = choices + self.offsets
        return self._log_softmax(scores).gather(-1, choices).sum(-1)

    def entropy(self, scores: Tensor, action_mask: Tensor | None) -> Tensor:
        log_probs = self._log_softmax(scores)
        return -(log_probs.exp() * log_probs).sum(-1)

    def _log_softmax(self, scores: Tensor) -> Tensor:
        if self.is_single:
            return scores.log_softmax(-1)
        return torch.cat([part.log_softmax(-1) for part in scores.split(self.spec.nvec, -1)], dim=-1)


class GaussianHead(ActionHead):
    """An independent Normal(mean, 0.5 * sigmoid(log_std)) per action dimension. Actions are real-valued."""

    def __init__(self, spec: ActionSpec, embed_dim: int) -> None:
        super().__init__(spec, embed_dim)
        self.action_embedding = linear(spec.dim, embed_dim, gain=ACTIVATED_GAIN)
        self.log_std = nn.Parameter(torch.ones(spec.dim))

    @property
    def std(self) -> Tensor:
        """Standard deviation per action dimension (dim,)."""
        return 0.5 * torch.sigmoid(self.log_std)

    def effective_mask(self, action_mask: Tensor | None, alive: Tensor | None) -> Tensor | None:
        mask = None if action_mask is None else action_mask.bool()
        if alive is None:
            return mask
        is_alive = alive.bool().unsqueeze(-1)  # (B, n, 1)
        return is_alive.expand(-1, -1, self.spec.dim) if mask is None else mask & is_alive

    def clean(self, actions: Tensor, alive: Tensor | None, action_mask: Tensor | None) -> Tensor:
        return self._masked(actions.to(self.log_std.dtype), action_mask)

    def start(self, batch_size: int) -> Tensor:
        return self.embedder()(self.log_std.new_zeros(batch_size, self.spec.dim))  # (B, d)

    def embedder(self) -> Callable[[Tensor], Tensor]:
        return lambda actions: gelu(self.action_embedding(actions.to(self.log_std.dtype)))

    def scores(self, outputs: Tensor, action_mask: Tensor | None) -> Tensor:
        return self._masked(outputs, action_mask)

    def noise(self, scores_shape: tuple[int, ...], action_mask: Tensor | None) -> Tensor:
        normal = torch.randn(scores_shape, dtype=self.log_std.dtype, device=self.log_std.device)
        return self._masked(normal * self.std, action_mask)

    def choose(self, scores: Tensor, noise: Tensor | None) -> Tensor:
        return scores if noise is None else scores + noise

    def log_probs(self, scores: Tensor, actions: Tensor, action_mask: Tensor | None) -> Tensor:
        std = self.std
        log_probs = -0.5 * ((actions - scores) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
        return self._masked(log_probs, action_mask)

    def entropy(self, scores: Tensor, action_mask: Tensor | None) -> Tensor:
        entropy = (self.std.log() + 0.5 * math.log(2 * math.pi * math.e)).expand_as(scores)
        return self._masked(entropy, action_mask)

    @staticmethod
    def _masked(values: Tensor, action_mask: Tensor | None) -> Tensor:
        return values if action_mask is None else values.where(action_mask, 0.0)
