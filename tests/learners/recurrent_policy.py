"""A small policy with memory, registered as a user's would be: a GRU per agent with one set of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from rllib_seqmarl.policies import Decision, Evaluation, Policy, PolicyConfig, register_policy


@dataclass(frozen=True)
class RecurrentConfig(PolicyConfig):
    """Attributes:
    hidden: The GRU's width.
    max_seq_len: The length of windows.
    """

    free_options: ClassVar[frozenset[str]] = frozenset({"max_seq_len"})

    hidden: int = 6
    max_seq_len: int = 20
    has_memory = True


class RecurrentPolicy(Policy):
    Config = RecurrentConfig
    config: RecurrentConfig

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config
        self.cell = nn.GRUCell(config.obs_dim, config.hidden)
        self.logits = nn.Linear(config.hidden, config.action.width)
        self.value = nn.Linear(config.hidden, 1)

    def initial_state(self, batch_size: int) -> Any:
        return {"hidden": self.value.weight.new_zeros(batch_size, self.config.n_agents or 0, self.config.hidden)}

    def _step(self, obs: Tensor, hidden: Tensor) -> Tensor:
        return self.cell(obs.flatten(0, 1), hidden.flatten(0, 1)).view_as(hidden)  # (B, n, hidden)

    def act(self, obs: Mapping[str, Tensor], state: Any = None, deterministic: bool = True) -> Decision:
        state = self.initial_state(len(obs["observations"])) if state is None else state
        hidden = self._step(obs["observations"], state["hidden"])
        choice = Categorical(logits=self.logits(hidden))
        actions = choice.logits.argmax(-1) if deterministic else choice.sample()
        values = self.value(hidden).squeeze(-1)
        return Decision(actions, choice.log_prob(actions), values, {"hidden": hidden}, {"extra": values[:, :1]})

    def evaluate(
        self,
        obs: Mapping[str, Tensor],
        actions: Tensor,
        state: Any = None,
        resets: Tensor | None = None,
        extras: Mapping[str, Tensor] | None = None,
    ) -> Evaluation:
        assert state is not None and resets is not None and extras is not None and "extra" in extras
        hidden, steps = state["hidden"], []
        for t in range(actions.shape[1]):
            hidden = self._step(obs["observations"][:, t], hidden * ~resets[:, t, None, None])
            steps.append(hidden)
        features = torch.stack(steps, dim=1)  # (W, L, n, hidden)
        choice = Categorical(logits=self.logits(features))
        return Evaluation(choice.log_prob(actions), choice.entropy(), self.value(features).squeeze(-1), {})

    def values(self, obs: Mapping[str, Tensor], state: Any = None) -> Tensor:
        return self.act(obs, state).values


register_policy("recurrent", RecurrentPolicy)
