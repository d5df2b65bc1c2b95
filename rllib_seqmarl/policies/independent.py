"""The policy of MAPPO, IPPO and MAT-Dec, which differ only in what their critic reads.

Every agent decides from its own observation: pi(a_1..a_n | o_1..o_n) is the product over agents of pi_i(a_i | o_i).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from rllib_seqmarl.networks.config import EncoderConfig
from rllib_seqmarl.networks.distributions import Categorical, Distribution, Gaussian
from rllib_seqmarl.networks.encoder import Encoder
from rllib_seqmarl.networks.image_embedding import ImageEmbedding
from rllib_seqmarl.networks.memory import Memory
from rllib_seqmarl.networks.memory_config import MemoryConfig
from rllib_seqmarl.networks.mlp import ACTIVATIONS, apply_each, mlp
from rllib_seqmarl.networks.policy_config import PolicyConfig, check_choice, is_count
from rllib_seqmarl.policies.base import (
    Decision,
    Evaluation,
    SeparatePolicy,
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
            agents, concatenated, for one value of the team; "observations", each agent's own observation;
            "agent_state", the global state and each agent's own observation; "encoder", the team's observations through
            an encoder, to which the options from `n_block` to `backend` apply.
        death_masking: Whether critic="agent_state" reads zeros instead of the global state for agents that are dead
            (Yu et al. 2022, arXiv 2103.01955, section 5).
        std: The standard deviation of continuous actions: "sigmoid" for 0.5 * sigmoid(log_std), with log_std = 1
            initially, or "exp" for exp(log_std), with log_std = 0 initially.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    share_actor: bool = True
    critic: Literal["state", "observations", "agent_state", "encoder"] = "state"
    death_masking: bool = False
    std: Literal["sigmoid", "exp"] = "sigmoid"

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.hidden_sizes
        if not isinstance(sizes, tuple | list) or not sizes or not all(map(is_count, sizes)):
            raise ValueError(f"hidden_sizes must be a list of integers >= 1, such as [64, 64], not {sizes!r}")
        object.__setattr__(self, "hidden_sizes", tuple(sizes))  # a list if loaded from JSON
        check_choice(self, "activation", tuple(ACTIVATIONS))
        check_choice(self, "share_actor", (True, False))
        check_choice(self, "critic", ("state", "observations", "agent_state", "encoder"))
        check_choice(self, "death_masking", (True, False))
        check_choice(self, "std", ("sigmoid", "exp"))
        self._check_effects()

    def _check_joint(self) -> None:
        if self.is_joint:
            raise ValueError(
                "memory='joint' has no effect on actors that read only their own observation; choose a memory of each "
                "agent, such as memory='gru'"
            )

    def _check_heads(self) -> None:
        if self.critic == "encoder":
            super()._check_heads()
        if self.has_memory and self.hidden_sizes[-1] % self.n_head:
            raise ValueError(
                f"hidden_sizes={list(self.hidden_sizes)}: the last one, the memory's width, cannot be split among "
                f"n_head={self.n_head} heads; choose a multiple of {self.n_head}"
            )

    def _check_effects(self) -> None:
        defaults = {f.name: f.default for f in fields(EncoderConfig)} | {"mixer_options": {}}
        of_memory = {*MemoryConfig.options(), *(["n_head", "backend"] if self.has_memory else [])}
        for key in (key for key in EncoderConfig.options() if key not in of_memory):
            if self.critic != "encoder" and getattr(self, key) != defaults[key]:
                raise ValueError(
                    f"{key}={getattr(self, key)!r} has no effect on critic={self.critic!r}, which has no encoder; "
                    f"remove it, or set critic='encoder'"
                )
        if self.death_masking and self.critic != "agent_state":
            raise ValueError(
                f"death_masking=True has no effect on critic={self.critic!r}; remove it, or set critic='agent_state'"
            )
        if self.critic == "agent_state" and not self.state_dim:
            raise ValueError("critic='agent_state' needs the global state; set global_state=True, or critic='state'")
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
    def has_agent_values(self) -> bool:
        """Whether the critic has a value for each agent instead of one for the team."""
        return self.critic != "state" or self.has_agent_states

    @property
    def needs_n_agents(self) -> bool:
        return not self.share_actor or self.reads_team or self.has_memory

    def settings(self) -> dict[str, Any]:
        return super().settings() | ({} if self.share_actor else {"n_agents": self.n_agents})


class IndependentPolicy(SeparatePolicy):
    """Actors that read their own observation, shared or one per agent, and a critic.

    Log-probabilities and entropies are (B, n), summed over an agent's choices or action dimensions, so that an
    objective clips the ratio of the agent's whole action. A critic of the team's state has the same value for all
    agents, and runs once per team; if the state is given per agent, (B, n, state_dim), every agent has its own.

    With memory, actors and critic each have their own, between the hidden layers and the output layer, as in MAPPO's
    published code. A critic that is an encoder has it before mixing the agents.

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
        reads_images = not is_encoder and (config.critic == "agent_state" or not config.state_dim)
        self.actor_image, width = ImageEmbedding.of(config)
        self.critic_image = ImageEmbedding.of(config)[0] if reads_images else None
        self.actors = nn.ModuleList(self._mlp(width, config.action.width, gain=0.01) for _ in range(n or 1))
        self.distribution: Distribution
        if config.action.kind == "discrete":
            self.distribution = Categorical(config.action)
        else:
            self.distribution = Gaussian(config.action, config.std, n)
        n_inputs = width * (config.n_agents or 0) if config.reads_team else config.state_dim or width
        if config.critic == "agent_state":
            n_inputs = width + config.state_dim
        self.critic = Encoder(config) if is_encoder else self._mlp(n_inputs, 1, gain=1.0)
        self.actor_memory = Memory(config, config.hidden_sizes[-1], n) if config.has_memory else None
        has_own = config.has_memory and not is_encoder
        self.critic_memory = Memory(config, config.hidden_sizes[-1]) if has_own else None

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
        if config.critic == "agent_state":
            return axes | input_axes("critic.", (*own, "state"))
        return axes | input_axes("critic.", ("state",) if config.state_dim else own * n if config.reads_team else own)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The actor, or every agent's ("actor_0", ...), and the "critic"."""
        own = [list(actor.parameters()) for actor in self.actors]
        for actor, log_std in zip(own, self.distribution.parameters(), strict=False):
            actor.append(log_std)
        if self.actor_memory is not None:
            for actor, memory in zip(own, self.actor_memory.mixers, strict=True):
                actor += memory.parameters()
        if self.actor_image is not None:
            own[0] += self.actor_image.parameters()
        names = ["actor"] if self.config.share_actor else [f"actor_{i}" for i in range(len(own))]
        parts = [part for part in (self.critic, self.critic_memory, self.critic_image) if part is not None]
        return {**dict(zip(names, own, strict=True)), "critic": [p for part in parts for p in part.parameters()]}

    def initial_state(self, batch_size: int) -> State:
        if self.actor_memory is None:
            return {}
        memory = self.critic.memory if isinstance(self.critic, Encoder) else self.critic_memory
        n = self.config.n_agents or 0
        return {
            "actor": self.actor_memory.initial_state(batch_size, n),
            "critic": cast(Memory, memory).initial_state(batch_size, n if self.config.has_agent_values else 1),
        }

    @torch.no_grad()
    def act(self, obs: TeamObs, state: State = None, deterministic: bool = True) -> Decision:
        distribution, state = self.distribution, self._state_before(obs, state)
        scores, action_mask, actor = self._scores(obs, state.get("actor"))
        noise = None if deterministic else distribution.noise(scores, action_mask)
        actions = distribution.choose(scores, noise)
        log_probs = self._per_agent(distribution.log_probs(scores, actions, action_mask))
        values, critic = self._values(obs, state.get("critic"))
        return Decision(actions, log_probs, values, {"actor": actor, "critic": critic} if state else {}, {})

    def evaluate(
        self,
        obs: TeamObs,
        actions: Tensor,
        state: State = None,
        resets: Tensor | None = None,
        extras: Mapping[str, Tensor] | None = None,
    ) -> Evaluation:
        log_probs, entropy = self._evaluate(obs, actions, (state or {}).get("actor"), resets)
        return Evaluation(log_probs, entropy, self.evaluate_values(obs, state, resets), {})

    def evaluate_agent(
        self, agent: int, obs: TeamObs, actions: Tensor, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        axis, memory = checked_observations(self.config, obs).dim() - 2, (state or {}).get("actor")
        own = {key: obs[key].narrow(axis, agent, 1) for key in ("observations", "alive", "action_mask") if key in obs}
        if memory is not None:
            memory = tree_map(lambda x: x.narrow(1, agent, 1), memory)
        return self._evaluate(own, actions.narrow(axis, agent, 1), memory, resets, agent)

    def _evaluate(
        self, obs: TeamObs, actions: Tensor, state: State, resets: Tensor | None, agent: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies, ([B, T,] n), of all agents, or of the one whose observations are given."""
        distribution = self.distribution
        scores, action_mask, _ = self._scores(obs, state, resets, agent)
        actions = distribution.clean(actions, obs.get("alive"), action_mask)
        log_probs = self._per_agent(distribution.log_probs(scores, actions, action_mask, agent))
        return log_probs, self._per_agent(distribution.entropy(scores, action_mask, agent))

    def evaluate_values(self, obs: TeamObs, state: State = None, resets: Tensor | None = None) -> Tensor:
        return self._values(obs, (state or {}).get("critic"), resets)[0]

    def values(self, obs: TeamObs, state: State = None) -> Tensor:
        return self._values(obs, self._state_before(obs, state).get("critic"))[0]

    def _state_before(self, obs: TeamObs, state: State) -> dict[str, State]:
        return state or self.initial_state(obs["observations"].shape[0])  # len() would be a constant in an export

    def _scores(
        self, obs: TeamObs, state: State, resets: Tensor | None = None, agent: int | None = None
    ) -> tuple[Tensor, Tensor | None, State]:
        """Scores and the effective action mask, ([B, T,] n, width), and the actors' memory after it.

        With `agent`, observations and state are of that agent only.
        """
        x = checked_observations(self.config, obs) if agent is None else obs["observations"]
        if self.actor_image is not None:
            x = self.actor_image(x)
        actors = self.actors if agent is None or self.config.share_actor else [self.actors[agent]]
        outputs, state = _through(actors, x, self.actor_memory, state, resets, agent)
        action_mask = self.distribution.effective_mask(obs.get("action_mask"), obs.get("alive"))
        return self.distribution.scores(outputs, action_mask), action_mask, state

    def _per_agent(self, x: Tensor) -> Tensor:
        """Sum log-probabilities or entropies over action dimensions: ([B, T,] n)."""
        return x.sum(-1) if self.config.action.kind == "continuous" else x

    def _values(self, obs: TeamObs, state: State, resets: Tensor | None = None) -> tuple[Tensor, State]:
        """Values ([B, T,] n), and the critic's memory after them."""
        config, observations = self.config, checked_observations(self.config, obs)
        if isinstance(self.critic, Encoder):
            features, state = self.critic.embed(network_input(config, obs), state, resets)  # ([B, T,] n, d)
            values = self.critic(features.flatten(0, -3))[1]
            return values.view(observations.shape[:-1]), state
        reads_both = config.critic == "agent_state"
        inputs = obs["state"] if config.state_dim and not reads_both else observations
        if self.critic_image is not None:
            inputs = self.critic_image(inputs)
        if reads_both:
            state_of_each = network_input(config, obs)[..., config.obs_dim :]  # ([B, T,] n, state_dim)
            if config.death_masking and "alive" in obs:
                state_of_each = state_of_each * obs["alive"].unsqueeze(-1)
            inputs = torch.cat([inputs, state_of_each], dim=-1)
        if config.reads_team:
            inputs = inputs.flatten(-2)  # ([B, T,] n * obs_dim)
        if not config.has_agent_values:
            inputs = inputs.unsqueeze(-2)  # ([B, T,] 1, inputs)
        values, state = _through([self.critic], inputs, self.critic_memory, state, resets)
        return values.squeeze(-1).expand(observations.shape[:-1]), state


def _through(
    networks: Iterable[nn.Module],
    x: Tensor,
    memory: Memory | None,
    state: State,
    resets: Tensor | None,
    agent: int | None = None,
) -> tuple[Tensor, State]:
    """Apply one network to all agents or one to each, ([B, T,] n, inputs), with the memory before its last layer."""
    layers: list[Any] = list(networks)
    if memory is None:
        return apply_each(layers, x), None
    x, state = memory(apply_each([part[:-1] for part in layers], x), state, resets, agent)
    return apply_each([part[-1:] for part in layers], x), state
