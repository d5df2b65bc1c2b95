"""A policy of one's own: linear in each agent's observation."""

from dataclasses import dataclass

import torch
from torch import nn

from rllib_seqmarl import register_policy
from rllib_seqmarl.networks.distributions import Categorical
from rllib_seqmarl.policies import Decision, Evaluation, Policy, PolicyConfig


@dataclass(frozen=True)
class LinearConfig(PolicyConfig):
    """Options of the linear policy.

    Attributes:
        bias: Whether scores and values have a bias.
    """

    bias: bool = True


class LinearPolicy(Policy):
    Config = LinearConfig

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        self.config = config
        self.actor = nn.Linear(config.obs_dim, config.action.width, bias=config.bias)
        self.critic = nn.Linear(config.obs_dim, 1, bias=config.bias)
        self.choices = Categorical(config.action)

    @torch.no_grad()
    def act(self, obs, state=None, deterministic=True):
        mask = self.choices.effective_mask(obs.get("action_mask"), obs.get("alive"))
        scores = self.choices.scores(self.actor(obs["observations"]), mask)  # (B, n, width)
        actions = self.choices.choose(scores, None if deterministic else self.choices.noise(scores, mask))
        return Decision(actions, self.choices.log_probs(scores, actions, mask), self.values(obs), {}, {})

    def evaluate(self, obs, actions, state=None, resets=None, extras=None):
        mask = self.choices.effective_mask(obs.get("action_mask"), obs.get("alive"))
        scores = self.choices.scores(self.actor(obs["observations"]), mask)
        actions = self.choices.clean(actions, obs.get("alive"), mask)
        log_probs, entropy = self.choices.log_probs(scores, actions, mask), self.choices.entropy(scores, mask)
        return Evaluation(log_probs, entropy, self.values(obs), {})

    def values(self, obs, state=None):
        return self.critic(obs["observations"]).squeeze(-1)


register_policy("linear", LinearPolicy)
