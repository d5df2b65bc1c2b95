"""The policy of MAPPO, IPPO and MAT-Dec, which differ only in what their critic reads.

Every agent decides from its own observation: pi(a_1..a_n | o_1..o_n) is the product over agents of pi_i(a_i | o_i).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rllib_seqmarl.networks.config import EncoderConfig
from rllib_seqmarl.networks.distributions import Categorical, Distribution, Gaussian
from rllib_seqmarl.networks.encoder import Encoder
from rllib_seqmarl.networks.image_embedding import ImageEmbedding
from rllib_seqmarl.networks.mlp import ACTIVATIONS, apply_each, mlp
from rllib_seqmarl.networks.policy_config import PolicyConfig, check_choice, is_count
from rllib_seqmarl.policies.base import (
    Decision,
    Evaluation,
    Policy,
    State,
    TeamObs,
    checked_observations,
    input_axes,
    network_input,
)


@dataclass(frozen=True)
class IndependentConfig(EncoderConfig):
    """Sizes of actors that read their own observation, and of a critic, :class:`IndependentPolicy`.

    Attributes:
        hidden_sizes: The widths of the hidden layers of the actors, and of the critic unless it is an encoder.
        activation: The activation of the hidden layers: "relu", "tanh" or "gelu".
        share_actor: Whether all agents use the same actor; otherwise, each has its own.
        critic: What the critic reads: "state", the global state with `global_state=True`, else the observations of all
            agents, concatenated, for one value of the team; "observations", each agent's own observation; "encoder",
            the team's observations through an encoder, to which the options from `n_block` to `backend` apply.
        std: The standard deviation of continuous actions: "sigmoid" for 0.5 * sigmoid(log_std), with log_std = 1
            initially, or "exp" for exp(log_std), with log_std = 0 initially.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    share_actor: bool = True
    critic: Literal["state", "observations", "encoder"] = "state"
    std: Literal["sigmoid", "exp"] = "sigmoid"

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.hidden_sizes
        if not isinstance(sizes, tuple | list) or not sizes or not all(map(is_count, sizes)):
            raise ValueError(f"hidden_sizes must be a list of integers >= 1, such as [64, 64], not {sizes!r}")
        object.__setattr__(self, "hidden_sizes", tuple(sizes))  # a list if loaded from JSON
        check_choice(self, "activation", tuple(ACTIVATIONS))
        check_choice(self, "share_actor", (True, False))
        check_choice(self, "critic", ("state", "observations", "encoder"))
        check_choice(self, "std", ("sigmoid", "exp"))
        self._check_effects()

    def _check_effects(self) -> None:
        defaults = {f.name: f.default for f in fields(EncoderConfig)} | {"mixer_options": {}}
        for key in (key for key in EncoderConfig.options() if key not in PolicyConfig.options()):
            if self.critic != "encoder" and getattr(self, key) != defaults[key]:
                raise ValueError(
                    f"{key}={getattr(self, key)!r} has no effect on critic={self.critic!r}, which has no encoder; "
                    f"remove it, or set critic='encoder'"
                )
        if self.critic == "observations" and self.state_dim:
            raise ValueError(
                "global_state=True has no effect on critic='observations', which reads each agent's own observation; "
                "remove it, or set critic='state'"
            )
        if self.image_shape is not None and not self.share_actor:
            raise ValueError("share_actor=False is not supported for agents that observe images; set share_actor=True")

    @property
    def reads_team(self) -> bool:
        """Whether the critic reads the concatenated observations of all agents."""
        return self.critic == "state" and not self.state_dim

    @property
    def needs_n_agents(self) -> bool:
        return not self.share_actor or self.reads_team

    def settings(self) -> dict[str, Any]:
        return super().settings() | ({} if self.share_actor else {"n_agents": self.n_agents})


class IndependentPolicy(Policy):
    """Actors that read their own observation, shared or one per agent, and a critic.

    Log-probabilities and entropies are (B, n), summed over an agent's choices or action dimensions, so that an
    objective clips the ratio of the agent's whole action. A critic of the team's state has the same value for all
    agents, and runs once per team; if the state is given per agent, (B, n, state_dim), every agent has its own.

    Raises:
        ValueError: The number of agents is needed, but not configured.
    """

    Config = IndependentConfig
    config: IndependentConfig

    def __init__(self, config: IndependentConfig) -> None:
        super().__init__()
        self.config = config
        if config.needs_n_agents and config.n_agents is None:
            raise ValueError(f"share_actor={config.share_actor} and critic={config.critic!r} need n_agents; set it")
        is_encoder, n = config.critic == "encoder", None if config.share_actor else config.n_agents
        self.actor_image, width = ImageEmbedding.of(config)
        self.critic_image = None if is_encoder or config.state_dim else ImageEmbedding.of(config)[0]
        self.actors = nn.ModuleList(self._mlp(width, config.action.width, gain=0.01) for _ in range(n or 1))
        self.distribution: Distribution
        if config.action.kind == "discrete":
            self.distribution = Categorical(config.action)
        else:
            self.distribution = Gaussian(config.action, config.std, n)
        n_inputs = width * (config.n_agents or 0) if config.reads_team else config.state_dim or width
        self.critic = Encoder(config) if is_encoder else self._mlp(n_inputs, 1, gain=1.0)

    def _mlp(self, n_inputs: int, n_outputs: int, gain: float) -> nn.Sequential:
        return mlp(n_inputs, self.config.hidden_sizes, n_outputs, self.config.activation, gain)

    @classmethod
    def team_axes(cls, config: PolicyConfig) -> dict[str, tuple[int, tuple[str, ...]]]:
        assert isinstance(config, IndependentConfig)
        own, n, last = ("own", "ids"), config.n_agents or 1, 1 + 3 * len(config.hidden_sizes)
        axes: dict[str, tuple[int, tuple[str, ...]]] = {"distribution.log_std": (0, ("action",))}
        for i in range(1 if config.share_actor else n):
            axes |= input_axes(f"actors.{i}.", own)
            axes |= {f"actors.{i}.{last}.{name}": (0, ("action",)) for name in ("weight", "bias")}
            axes[f"distribution.log_std.{i}"] = 0, ("action",)
        if config.critic == "encoder":
            return axes | input_axes("critic.embedding.", (*own, "state"))
        return axes | input_axes("critic.", ("state",) if config.state_dim else own * n if config.reads_team else own)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The actor, or every agent's ("actor_0", ...), and the "critic"."""
        own = [list(actor.parameters()) for actor in self.actors]
        for actor, log_std in zip(own, self.distribution.parameters(), strict=False):
            actor.append(log_std)
        if self.actor_image is not None:
            own[0] += self.actor_image.parameters()
        names = ["actor"] if self.config.share_actor else [f"actor_{i}" for i in range(len(own))]
        images = [] if self.critic_image is None else self.critic_image.parameters()
        return {**dict(zip(names, own, strict=True)), "critic": [*self.critic.parameters(), *images]}

    @torch.no_grad()
    def act(self, obs: TeamObs, state: State = None, deterministic: bool = True) -> Decision:
        distribution = self.distribution
        scores, action_mask = self._scores(obs)
        noise = None if deterministic else distribution.noise(scores, action_mask)
        actions = distribution.choose(scores, noise)
        log_probs = self._per_agent(distribution.log_probs(scores, actions, action_mask))
        return Decision(actions, log_probs, self.values(obs), {}, {})

    def evaluate(
        self,
        obs: TeamObs,
        actions: Tensor,
        state: State = None,
        resets: Tensor | None = None,
        extras: Mapping[str, Tensor] | None = None,
    ) -> Evaluation:
        distribution = self.distribution
        scores, action_mask = self._scores(obs)
        actions = distribution.clean(actions, obs.get("alive"), action_mask)
        log_probs = self._per_agent(distribution.log_probs(scores, actions, action_mask))
        entropy = self._per_agent(distribution.entropy(scores, action_mask))
        return Evaluation(log_probs, entropy, self.values(obs), {})

    def _scores(self, obs: TeamObs) -> tuple[Tensor, Tensor | None]:
        """Scores and the effective action mask, (B, n, width)."""
        observations = checked_observations(self.config, obs)
        if self.actor_image is not None:
            observations = self.actor_image(observations)
        is_shared = self.config.share_actor
        outputs = self.actors[0](observations) if is_shared else apply_each(self.actors, observations)
        action_mask = self.distribution.effective_mask(obs.get("action_mask"), obs.get("alive"))
        return self.distribution.scores(outputs, action_mask), action_mask

    def _per_agent(self, x: Tensor) -> Tensor:
        """Sum log-probabilities or entropies over action dimensions: (B, n)."""
        return x.sum(-1) if self.config.action.kind == "continuous" else x

    def values(self, obs: TeamObs, state: State = None) -> Tensor:
        config, observations = self.config, checked_observations(self.config, obs)
        if config.critic == "encoder":
            return self.critic(network_input(config, obs))[1]
        inputs = obs["state"] if config.state_dim else observations
        if self.critic_image is not None:
            inputs = self.critic_image(inputs)
        if config.reads_team:
            inputs = inputs.flatten(1)  # (B, n * obs_dim)
        values = self.critic(inputs).squeeze(-1)  # (B,) for the team's state, else (B, n)
        return values if values.dim() == 2 else values.unsqueeze(1).expand(observations.shape[:2])
