"""The protocol of a policy: what the RLModule, exports, transfer and `JointPolicy` know of a network."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from rllib_seqmarl.mixers.base import State
from rllib_seqmarl.networks.policy_config import PolicyConfig

TeamObs = Mapping[str, Tensor]  # a joint observation, see `Policy`
# The columns of batches that RLlib, the module and the learner write, so that extras need other names.
COLUMNS = """
    obs infos actions actions_for_env rewards terminateds truncateds new_obs eps_id agent_id module_id seq_lens t
    state_in next_state_in state_out next_state_out embeddings action_dist_inputs action_prob action_logp vf_preds
    values_bootstrapped advantages value_targets intrinsic_rewards returns_to_go loss_mask entropy resets agent_earns
    loss_weights value_loss_weights factor updated weights_seq_no
"""


class Decision(NamedTuple):
    """What a policy chose for B teams of n agents, and what it carries to the next step.

    Attributes:
        actions: (B, n, *action_shape), int64 choices or real numbers.
        log_probs: (B, n), or (B, n, dim) with one log-probability per action dimension.
        values: (B, n), in the value normaliser's units.
        state: The state before the next step, a tree of tensors (B, ...).
        extras: Tensors (B, ...) that :meth:`Policy.evaluate` needs again, by column name, none of `COLUMNS`.
    """

    actions: Tensor
    log_probs: Tensor
    values: Tensor
    state: State
    extras: dict[str, Tensor]


class Evaluation(NamedTuple):
    """The evaluation of given actions, with the leading axes of the observations; see :class:`Decision`.

    ``entropy`` has the shape of ``log_probs``; ``extras`` are terms for an objective of one's own.
    """

    log_probs: Tensor
    entropy: Tensor
    values: Tensor
    extras: dict[str, Tensor]


class Policy(nn.Module, ABC):
    """Chooses actions for teams, evaluates actions, and estimates values.

    A joint observation `obs` is a mapping of tensors, for B teams of n agents:
        "observations": (B, n, obs_dim); of any dtype if they begin with images.
        "alive": (B, n), bool or 0/1. A dead agent has action 0, log-probability 0 and entropy 0. Absent: all are alive.
        "action_mask": (B, n, width), bool or 0/1: the legal choices, or the action dimensions that an agent really
            has. Absent: everything is legal.
        "state": (B, state_dim), the global state, if the team has one; (B, n, state_dim) if agents have their own.

    State is data: a dict of tensors or of trees of them, (B, ...), all zeros before the first step of an episode. If
    evaluation depends on it (`config.has_memory`), it takes windows of consecutive steps.

    Attributes:
        Config: The type of the policy's configuration.
        config: The policy's configuration.
    """

    Config: ClassVar[type[PolicyConfig]]
    config: PolicyConfig

    def initial_state(self, batch_size: int) -> State:
        """The state of B teams before the first step: zeros; {} if nothing is carried from step to step."""
        return {}

    @abstractmethod
    def act(self, obs: TeamObs, state: State = None, deterministic: bool = True) -> Decision:
        """Choose the actions of one step, without gradients.

        Args:
            obs: The joint observation.
            state: The state before this step; None for the initial state.
            deterministic: Whether to choose the most probable actions instead of sampling.
        """

    @abstractmethod
    def evaluate(
        self,
        obs: TeamObs,
        actions: Tensor,
        state: State = None,
        resets: Tensor | None = None,
        extras: Mapping[str, Tensor] | None = None,
    ) -> Evaluation:
        """Evaluate given actions, with gradients.

        Args:
            obs: The joint observation. With memory, all arrays have a time axis after the first: (B, T, n, ...).
            actions: (B, n, *action_shape), or (B, T, n, *action_shape) with memory.
            state: With memory, the state before the first of the T steps; None for the initial state.
            resets: With memory, bool (B, T): an episode begins at this step, before which the state is zeroed.
            extras: The decision's extras.
        """

    @abstractmethod
    def values(self, obs: TeamObs, state: State = None) -> Tensor:
        """Values (B, n) of one step, given the state before it."""

    @classmethod
    def team_axes(cls, config: PolicyConfig) -> dict[str, tuple[int, tuple[str, ...]]]:
        """The axes of parameters that depend on the team, for transfer to another one.

        Returns:
            By parameter name, the axis, and what its entries are, in order: ("action",), or some of "own" (an agent's
            own observation without its id), "ids" (its id), and "state" (the global state). If several agents'
            observations are concatenated, "own" and "ids" occur once for each.
        """
        return {}

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the name of their optimiser, each with its own learning rate and gradient norm."""
        return {"default": list(self.parameters())}

    @contextmanager
    def fixed_weights(self) -> Iterator[None]:
        """Promise not to change the weights in this block, so that `act` may prepare them once."""
        yield


class SeparatePolicy(Policy):
    """A policy whose agents and critic can be evaluated on their own, which spares the others' cost.

    Needed only for speed, by agents that are updated one after another. The decision's extras are not given back.
    """

    @abstractmethod
    def evaluate_agent(
        self, agent: int, obs: TeamObs, actions: Tensor, state: State = None, resets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One agent's log-probabilities and entropies of :meth:`evaluate`, ([B, T,] 1) or ([B, T,] 1, dim)."""

    @abstractmethod
    def evaluate_values(self, obs: TeamObs, state: State = None, resets: Tensor | None = None) -> Tensor:
        """The values of :meth:`evaluate`, ([B, T,] n)."""


def check_state(policy: Policy) -> None:
    """Raise an error unless the policy's initial state is a dict, and has entries if the policy has memory."""
    state, name = policy.initial_state(1), type(policy).__name__
    if not isinstance(state, dict):
        raise TypeError(
            f"{name}.initial_state returns a {type(state).__name__}; return a dict, such as {{'memory': ...}}."
        )
    if policy.config.has_memory and not state:
        raise ValueError(f"{name} has memory, but its initial_state is empty; return what it carries to the next step.")


def checked_observations(config: PolicyConfig, obs: TeamObs) -> Tensor:
    """Each agent's own observation, (..., n, obs_dim).

    Raises:
        ValueError: They have another width, number of agents or kind of numbers than the policy is made for.
    """
    observations = obs["observations"]
    if config.image_shape is None and not observations.is_floating_point():
        raise ValueError(f"observations must be floating-point numbers, not {observations.dtype}; use x.float()")
    if config.needs_n_agents and observations.shape[-2] != config.n_agents:
        raise ValueError(
            f"this policy is made for n_agents={config.n_agents}, but the observations are of {observations.shape[-2]}"
        )
    if observations.dim() < 3 or observations.shape[-1] != config.obs_dim:
        raise ValueError(
            f"observations must have shape (batch, agents, {config.obs_dim}), not {tuple(observations.shape)}"
        )
    return observations


def check_extras(names: Iterable[str]) -> None:
    """Raise a ValueError if one of a decision's extras has the name of another column."""
    if taken := sorted(set(COLUMNS.split()).intersection(names)):
        raise ValueError(f"the policy's extra {taken[0]!r} would replace the batch's column of that name; rename it")


def network_input(config: PolicyConfig, obs: TeamObs) -> Tensor:
    """Each agent's observation, followed by the global state if there is one: (..., n, obs_dim + state_dim)."""
    observations = checked_observations(config, obs)
    if not config.state_dim:
        return observations
    if "state" not in obs:
        raise ValueError(f"this policy reads a global state of {config.state_dim} numbers, but obs has no 'state'")
    state = obs["state"] if obs["state"].dim() == observations.dim() else obs["state"].unsqueeze(-2)
    return torch.cat([observations, state.expand(*observations.shape[:-1], -1)], dim=-1)


def input_axes(prefix: str, parts: tuple[str, ...]) -> dict[str, tuple[int, tuple[str, ...]]]:
    """The axes of a normalisation and a linear layer that read these parts; see :meth:`Policy.team_axes`."""
    return {f"{prefix}0.weight": (0, parts), f"{prefix}0.bias": (0, parts), f"{prefix}1.weight": (1, parts)}
