"""Run a trained team from a checkpoint or an exported file, without a Ray cluster and without unpickling."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from rllib_seqmarl.envs.errors import LayoutError
from rllib_seqmarl.envs.layout import TeamLayout
from rllib_seqmarl.networks.value_normalizer import ValueNormalizer
from rllib_seqmarl.policies import Policy, reset_state
from rllib_seqmarl.policies.export import ExportError, load_network, save_network
from rllib_seqmarl.policies.onnx_export import GreedyActor, write_onnx

POLICY_NAME = "policy"  # `policy.safetensors` and `policy.json`
_MODULE_IN_CHECKPOINT = Path("learner_group/learner/rl_module/default_policy")
_DEPLOYMENT = {
    "env": str,
    "env_config": dict,
    "env_config_left_out": list,
    "joint_options": dict,
    "normalize_actions": bool,
    "clip_actions": bool,
    "has_custom_connectors": bool,
}


def find_policy(path: str | os.PathLike[str]) -> Path:
    """Find a policy's two files and return their path without suffix.

    Args:
        path: A checkpoint directory, the directory of the RLModule in it, or the files' path with or without suffix.

    Raises:
        ExportError: No policy was found.
    """
    path = Path(path).expanduser()
    exported = path.with_suffix("") if path.suffix in (".json", ".safetensors") else path
    for candidate in (path / _MODULE_IN_CHECKPOINT / POLICY_NAME, path / POLICY_NAME, exported):
        if Path(f"{candidate}.json").exists():
            return candidate
    raise ExportError(
        f"{path} holds no policy of this package. Pass a checkpoint directory (it contains rllib_checkpoint.json) "
        f"written by MAT or another joint-policy algorithm of this version."
    )


def read_policy(path: str | os.PathLike[str]) -> JointPolicy:
    """Read the files written by `JointPolicy.save` without unpickling; `path` is their path without suffix.

    Raises:
        ExportError: A file is missing, damaged, incomplete or of another version; names the file and the key.
    """
    network, normalizer_state, description = load_network(path)
    try:
        layout = TeamLayout.from_dict(description["layout"])
    except (LookupError, ValueError, TypeError, AttributeError, AssertionError) as error:
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise ExportError(f"{path}.json: 'layout' is invalid ({reason}). Copy or save it again.") from None
    deployment: Any = description.get("deployment")
    for key, kind in _DEPLOYMENT.items():
        if not (isinstance(deployment, dict) and isinstance(deployment.get(key), kind)):
            raise ExportError(
                f"{path}.json: 'deployment' lacks {key!r}, which must be a {kind.__name__}. Copy or save it again."
            )
    config, widths = network.config, (layout.obs_dim, layout.state_dim, layout.width)
    expected = config.obs_dim, config.state_dim, config.action.width
    if expected != widths:
        raise ExportError(
            f"{path}.json: 'layout' and 'network' belong to different teams: the widths of observations, state and "
            f"choices are {widths} in 'layout' and {expected} in 'network'."
        )
    normalizer = None
    if normalizer_state:
        normalizer = ValueNormalizer()
        normalizer.load_state_dict(normalizer_state)
    return JointPolicy(network, layout, normalizer, deployment)


class JointPolicy:
    """Trained policy that acts for a team in the agents' own spaces.

    ```python
    from rllib_seqmarl import JointPolicy

    policy = JointPolicy.from_checkpoint("results/.../checkpoint_000009")
    actions = policy.act(observations)  # {agent: observation} -> {agent: action}
    ```

    A policy with memory remembers the earlier steps of an episode; call `reset` where an episode begins.

    Attributes:
        network: The policy that acts on arrays.
        layout: The layout of the team's observations and actions in the network's arrays.
        deployment: Training settings: "env", "env_config" and "joint_options" specify the environment;
            "normalize_actions" and "clip_actions" say how continuous actions are fitted to their bounds.
    """

    def __init__(
        self,
        network: Policy,
        layout: TeamLayout,
        value_normalizer: ValueNormalizer | None,
        deployment: dict[str, Any],
    ) -> None:
        """Initialise the policy; most users call `from_checkpoint` or `load` instead."""
        self.network = network.eval()
        self.layout = layout
        self.value_normalizer = value_normalizer
        self.deployment = deployment
        self._state: Any = None  # before the next step; None at the beginning of an episode

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Self:
        """Load the policy of an `Algorithm` checkpoint.

        Every checkpoint holds a copy of its policy as safetensors and JSON; only these files are read.

        Args:
            path: See `find_policy`.
            device: Device that the network runs on, such as "cuda".

        Raises:
            ExportError: There is no policy at `path`, or its files are damaged or of another version.
            ValueError: The policy was trained with custom connectors, which its files do not include.
        """
        return cls.load(find_policy(path), device)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Self:
        """Load the files written by `save` from `path` (without suffix); raises the errors of `from_checkpoint`."""
        policy = read_policy(path)
        if policy.deployment["has_custom_connectors"]:
            raise ValueError(
                f"{path} was trained with custom connectors between environment and module. Their code is not part of "
                f"the policy's files. Restore it with `Algorithm.from_checkpoint(...)`, which runs them."
            )
        return cls(policy.network, policy.layout, policy.value_normalizer, policy.deployment).to(device)

    def to(self, device: str | torch.device) -> Self:
        """Move the network to a device and call `reset`; observations are moved there too, actions are NumPy arrays."""
        self.network.to(device)
        if self.value_normalizer is not None:
            self.value_normalizer.to(device)
        self.reset()
        return self

    def reset(self) -> None:
        """Begin new episodes: forget earlier steps, and draw new orders of agents with `agent_order="shuffled"`."""
        self._state = None

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next(self.network.parameters()).device

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `path`.safetensors and `path`.json, from which `load` restores this policy without unpickling."""
        tensors = {} if self.value_normalizer is None else self.value_normalizer.state_dict()
        description = {"layout": self.layout.to_dict(), "deployment": self.deployment}
        save_network(path, self.network, tensors, description)

    def act(
        self,
        observations: Mapping[Any, Any],
        action_masks: Mapping[Any, Any] | None = None,
        *,
        state: Any = None,
        explore: bool = False,
    ) -> dict[Any, Any]:
        """Choose the team's actions.

        Args:
            observations: Observation of each living agent, in its own observation space; absent agents are dead.
            action_masks: The legal actions of each living agent, if the environment returns them in infos.
            state: The global state, if the policy was trained with it.
            explore: Whether to sample actions instead of choosing the most probable ones.

        Returns:
            The action of every agent that has an observation, in its own action space.

        Raises:
            LayoutError: An agent is unknown, or an observation, mask or state is missing or invalid; names the agent.
        """
        self._check_arguments(observations, action_masks, state)
        joint_action = self.act_jointly(self.layout.observe(observations, action_masks, state), explore=explore)
        return self.layout.split(joint_action, [agent for agent in self.layout.agents if agent in observations])

    def act_jointly(self, observation: Mapping[str, np.ndarray], *, explore: bool = False) -> np.ndarray:
        """Choose a joint action for a joint observation of a `JointEnv`; for `explore` see `act`."""
        return self.act_for_many({key: array[None] for key, array in observation.items()}, explore=explore)[0]

    def act_for_many(
        self, observations: Mapping[str, np.ndarray], *, explore: bool = False, resets: np.ndarray | None = None
    ) -> np.ndarray:
        """Choose joint actions of several teams, (teams, n, ...).

        Args:
            observations: Their joint observations, each array (teams, n, ...).
            explore: See `act`.
            resets: bool (teams,), the teams whose episodes begin with this step; None if there are none, except for all
                teams after `reset`.
        """
        batch = {key: torch.as_tensor(array, device=self.device) for key, array in observations.items()}
        state = self._state_of(len(batch["alive"]))
        if resets is not None:
            state = reset_state(state, torch.as_tensor(resets, device=self.device))
        decision = self.network.act(batch, state, deterministic=not explore)
        self._state = decision.state
        actions = decision.actions.cpu().numpy()
        options = self.deployment
        return self.layout.fit(actions, normalize=options["normalize_actions"], clip=options["clip_actions"])

    def _state_of(self, teams: int) -> Any:
        """The state before the next step of this number of teams; a new one if their number has changed."""
        leaves = tree_leaves(self._state)
        is_new = self._state is None or (leaves and len(leaves[0]) != teams)
        return self.network.initial_state(teams) if is_new else self._state

    def values(self, observations: Mapping[Any, Any], *, state: Any = None) -> dict[Any, float]:
        """Estimate each living agent's discounted return in reward units; raises the errors of `act`.

        Call this before acting on `observations`: the policy's state is the one after the last `act`.
        """
        self._check_arguments(observations, None, state)
        arrays = self.layout.observe(observations, state=state, last=True)
        batch = {key: torch.as_tensor(array, device=self.device).unsqueeze(0) for key, array in arrays.items()}
        with torch.no_grad():
            values = self.network.values(batch, self._state_of(1))
        if self.value_normalizer is not None:
            values = self.value_normalizer.denormalize(values)
        agent_values = zip(self.layout.agents, values[0].tolist(), strict=True)
        return {agent: value for agent, value in agent_values if agent in observations}

    def to_onnx(self, path: str | os.PathLike[str]) -> Path:
        """Export the greedy policy as an ONNX file, for runtimes that have neither this package nor torch; return it.

        The model's inputs are the arrays of joint observations, as created by `TeamLayout.observe`, of any number of
        teams: "observations" (teams, n, obs_dim), "alive" (teams, n), and if the team has them "action_mask"
        (teams, n, width) and "state" (teams, state_dim). Its output "actions" (teams, n, ...) equals the result of
        `act_for_many`. A policy with memory also has inputs "memory_0", ..., zeros where an episode begins, and outputs
        "next_memory_0", ... to pass in at the next step. The export moves the policy to the CPU and back, which
        resets it.

        Args:
            path: The file to write.

        Raises:
            ImportError: The package onnx or onnxscript is missing.
        """
        path = Path(path).expanduser()
        example = {key: torch.from_numpy(array) for key, array in self.layout.blank(2).items()}
        device = self.device
        try:
            network = self.to("cpu").network
            actor = GreedyActor(network, list(example), self._bounds())
            write_onnx(path, actor, [*example.values(), *tree_leaves(network.initial_state(2))])
        finally:
            self.to(device)
        return path

    def _bounds(self) -> tuple[Tensor, ...] | None:
        """Scale, offset, low and high (n, dim) of continuous actions, for `GreedyActor`; None for discrete actions."""
        if self.layout.is_discrete:
            return None
        low, high = self.layout.low, self.layout.high
        scale, offset = np.ones_like(low), np.zeros_like(low)
        if self.deployment["normalize_actions"]:
            bounded = np.isfinite(low) & np.isfinite(high)
            scale[bounded], offset[bounded] = (high - low)[bounded] / 2, (high + low)[bounded] / 2
        elif not self.deployment["clip_actions"]:
            low, high = np.full_like(low, -np.inf), np.full_like(high, np.inf)
        return tuple(map(torch.from_numpy, (scale, offset, low, high)))

    def _check_arguments(
        self, observations: Mapping[Any, Any], action_masks: Mapping[Any, Any] | None, state: Any
    ) -> None:
        """Raise a LayoutError for agents outside this team, and for arguments that would not be used."""
        self._check_names("observations", observations)
        if not observations:
            raise LayoutError("no agent has an observation, so there are no actions to choose.")
        if action_masks is not None:
            self._check_names("action_masks", action_masks)
            if not self.layout.info_masks:
                raise LayoutError(
                    "action_masks were given, but the policy was trained without masks in infos. Omit them, or put "
                    "them into the observations if these are Dicts with an action_mask."
                )
        if (state is None) == bool(self.layout.state_dim):
            problem = (
                f"needs the global state ({self.layout.state_dim} entries)" if state is None else "has no global state"
            )
            raise LayoutError(f"state: the policy was trained with global_state={state is None} and {problem}.")

    def _check_names(self, argument: str, agents: Mapping[Any, Any]) -> None:
        if not isinstance(agents, Mapping):
            raise LayoutError(f"{argument} must be a dictionary by agent, not a {type(agents).__name__}.")
        unknown = [agent for agent in agents if agent not in self.layout.agents]
        if unknown:
            raise LayoutError(
                f"{argument}: the team has no agent {unknown[0]!r}. Its agents are "
                f"{', '.join(map(repr, self.layout.agents))}."
            )
