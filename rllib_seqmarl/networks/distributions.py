"""Distributions over an agent's actions, from scores that a network computes.

No random numbers are drawn while choosing: noise is drawn for the whole team beforehand, and choosing is a
deterministic function of scores and noise (arg max with Gumbel noise; mean plus scaled normal noise).
Log-probabilities are computed for the whole team at once, by the same code for acting and training.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from rllib_seqmarl.networks.policy_config import ActionSpec

ILLEGAL_LOGIT = -1e10


class Distribution(nn.Module, ABC):
    """A distribution for each agent, given scores (..., width): logits, or the mean of a Gaussian.

    ``action_mask`` is always (..., width) bool or None (everything is legal), as returned by :meth:`effective_mask`.

    Attributes:
        kind: The kind of actions, "discrete" or "continuous".
    """

    kind: ClassVar[Literal["discrete", "continuous"]]
    dead_mask: Tensor

    def __init__(self, spec: ActionSpec) -> None:
        super().__init__()
        self.spec = spec
        # (width,), the mask of a dead agent
        self.register_buffer("dead_mask", torch.zeros(spec.width, dtype=torch.bool), persistent=False)

    def effective_mask(self, action_mask: Tensor | None, alive: Tensor | None) -> Tensor | None:
        """Combine ``action_mask`` (B, n, width) and ``alive`` (B, n), each bool, 0/1 or None, into one mask.

        A dead agent has a single legal action, choice 0 or zeros, so its log-probability and entropy are zero
        without special cases.
        """
        mask = None if action_mask is None else action_mask.bool()
        if alive is None:
            return mask
        is_alive = alive.bool().unsqueeze(-1)  # (B, n, 1)
        if mask is None:
            return is_alive | self.dead_mask
        return (is_alive & mask) | (~is_alive & self.dead_mask)  # not torch.where: ONNX runtimes lack it for bool

    @abstractmethod
    def clean(self, actions: Tensor, alive: Tensor | None, action_mask: Tensor | None) -> Tensor:
        """Set the ignored parts of ``actions`` (dead agents, padding) to the only legal value."""

    @abstractmethod
    def scores(self, outputs: Tensor, action_mask: Tensor | None) -> Tensor:
        """Scores (..., width) from a network's outputs (..., width)."""

    @abstractmethod
    def noise(self, like: Tensor, action_mask: Tensor | None) -> Tensor:
        """Draw noise of that shape and device, such that :meth:`choose` samples exactly from the policy."""

    @abstractmethod
    def choose(self, scores: Tensor, noise: Tensor | None) -> Tensor:
        """Choose actions (..., *action_shape) for ``scores`` (..., width); without ``noise``, the most probable."""

    @abstractmethod
    def log_probs(
        self, scores: Tensor, actions: Tensor, action_mask: Tensor | None, agent: int | None = None
    ) -> Tensor:
        """Log-probabilities of ``actions``: (...) summed over choices, or (..., dim) when continuous.

        If only one agent is given, ``agent`` is its index.
        """

    @abstractmethod
    def entropy(self, scores: Tensor, action_mask: Tensor | None, agent: int | None = None) -> Tensor:
        """Entropies in nats, in the shape of :meth:`log_probs`."""

    @staticmethod
    def _masked(values: Tensor, action_mask: Tensor | None) -> Tensor:
        return values if action_mask is None else values.where(action_mask, 0.0)


class Categorical(Distribution):
    """One or several independent choices per agent. Actions are int64."""

    kind = "discrete"
    offsets: Tensor

    def __init__(self, spec: ActionSpec) -> None:
        super().__init__(spec)
        offsets = torch.tensor((0, *spec.nvec[:-1])).cumsum(0)  # (k,) start of each component
        self.register_buffer("offsets", offsets, persistent=False)
        self.dead_mask[offsets] = True

    @property
    def is_single(self) -> bool:
        """Whether an agent makes one choice, so that actions have no component axis."""
        return len(self.spec.nvec) == 1

    def clean(self, actions: Tensor, alive: Tensor | None, action_mask: Tensor | None) -> Tensor:
        if alive is None:
            return actions
        dead = ~alive.bool()
        return actions.masked_fill(dead if self.is_single else dead.unsqueeze(-1), 0)

    def scores(self, outputs: Tensor, action_mask: Tensor | None) -> Tensor:
        return outputs if action_mask is None else torch.where(action_mask, outputs, ILLEGAL_LOGIT)

    def noise(self, like: Tensor, action_mask: Tensor | None) -> Tensor:
        # Gumbel noise (arg max of logits + noise is an exact sample). The bound avoids log(0). Half-precision noise
        # would have many ties, which arg max decides in favour of the first choices.
        uniform = torch.rand_like(like, dtype=torch.promote_types(like.dtype, torch.float32))
        tiny = torch.finfo(uniform.dtype).tiny
        return uniform.clamp_(min=tiny).log_().neg_().clamp_(min=tiny).log_().neg_()

    def choose(self, scores: Tensor, noise: Tensor | None) -> Tensor:
        if noise is not None:
            scores = scores + noise
        if self.is_single:
            return scores.argmax(-1)
        return torch.stack([part.argmax(-1) for part in scores.split(self.spec.nvec, -1)], dim=-1)

    def log_probs(
        self, scores: Tensor, actions: Tensor, action_mask: Tensor | None, agent: int | None = None
    ) -> Tensor:
        choices = (actions.unsqueeze(-1) if self.is_single else actions) + self.offsets  # (..., k)
        return self._log_softmax(scores).gather(-1, choices).sum(-1)

    def entropy(self, scores: Tensor, action_mask: Tensor | None, agent: int | None = None) -> Tensor:
        log_probs = self._log_softmax(scores)
        return -(log_probs.exp() * log_probs).sum(-1)

    def _log_softmax(self, scores: Tensor) -> Tensor:
        if self.is_single:
            return scores.log_softmax(-1)
        return torch.cat([part.log_softmax(-1) for part in scores.split(self.spec.nvec, -1)], dim=-1)


class Gaussian(Distribution):
    """An independent Normal per action dimension. Actions are real-valued.

    The standard deviation does not depend on the observation: 0.5 * sigmoid(log_std), or exp(log_std).

    Args:
        spec: The action of one agent.
        std: "sigmoid" or "exp".
        n_agents: The number of agents if each has its own standard deviations; None if they share them.
    """

    kind = "continuous"
    log_std: nn.Parameter | nn.ParameterList

    def __init__(self, spec: ActionSpec, std: Literal["sigmoid", "exp"] = "sigmoid", n_agents: int | None = None):
        super().__init__(spec)
        self._is_exponential = std == "exp"
        initial = torch.full((spec.dim,), 0.0 if self._is_exponential else 1.0)
        if n_agents is None:
            self.log_std = nn.Parameter(initial)
        else:
            self.log_std = nn.ParameterList(nn.Parameter(initial.clone()) for _ in range(n_agents))

    def std(self, agent: int | None = None) -> Tensor:
        """Standard deviation per action dimension: (dim,), or (n, dim) if each agent has its own, (1, dim) for one."""
        if isinstance(self.log_std, nn.Parameter):
            log_std: Tensor = self.log_std
        else:
            log_std = torch.stack(list(self.log_std) if agent is None else [self.log_std[agent]])
        return log_std.exp() if self._is_exponential else 0.5 * torch.sigmoid(log_std)

    def clean(self, actions: Tensor, alive: Tensor | None, action_mask: Tensor | None) -> Tensor:
        return self._masked(actions.to(next(self.parameters()).dtype), action_mask)

    def scores(self, outputs: Tensor, action_mask: Tensor | None) -> Tensor:
        return self._masked(outputs, action_mask)

    def noise(self, like: Tensor, action_mask: Tensor | None) -> Tensor:
        return self._masked(torch.randn_like(like) * self.std(), action_mask)

    def choose(self, scores: Tensor, noise: Tensor | None) -> Tensor:
        return scores if noise is None else scores + noise

    def log_probs(
        self, scores: Tensor, actions: Tensor, action_mask: Tensor | None, agent: int | None = None
    ) -> Tensor:
        std = self.std(agent)
        log_probs = -0.5 * ((actions - scores) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
        return self._masked(log_probs, action_mask)

    def entropy(self, scores: Tensor, action_mask: Tensor | None, agent: int | None = None) -> Tensor:
        entropy = (self.std(agent).log() + 0.5 * math.log(2 * math.pi * math.e)).expand_as(scores)
        return self._masked(entropy, action_mask)
