"""An n-agent environment as a single environment with joint observations and joint actions.

RLlib steps the team like a single agent, which avoids the cost of per-agent episodes. Per-agent values, such as
rewards, are in `info`.
"""

from collections import UserDict
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from rllib_seqmarl.envs.env_teams import AGENT_INFOS, EnvTeams
from rllib_seqmarl.envs.errors import JointEnvError, LayoutError
from rllib_seqmarl.envs.layout import Arrays
from rllib_seqmarl.envs.team_reader import TeamReader


class AgentInfos(UserDict[Any, Any]):
    """Infos by agent; unlike dicts, they can be compared if they contain arrays."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AgentInfos) and bool(data_equivalence(self.data, other.data))

    __hash__ = None  # type: ignore[assignment]


class JointEnv(gym.Env):
    """A PettingZoo ParallelEnv or RLlib MultiAgentEnv whose team acts as a single agent.

    Observations are a dictionary of arrays with one row per agent:
        observations: float32 (n, obs_dim), zero-padded to the widest agent, then n entries of agent ID; uint8 if all
            agents observe images of one size.
        alive: int8 (n,). Dead and absent agents keep their rows, with observations of zeros and only the first choice
            legal. An agent is dead once it has terminated, or while its info has `alive: False`; in the latter case
            it remains one of the environment's agents, and its rewards still count.
        action_mask: int8 (n, width), 1 where legal; present if the environment masks actions or actions are
            padded. Agents that have never had a mask may choose anything.
        state: float32 (s,), with `global_state=True`.

    Actions are `TeamLayout.action_space`: choices (n,) or (n, k), or continuous values (n, dim).

    The reward is the team's. Infos contain:
        agent_rewards: float32 (n,), per agent; after every step.
        team_reward: The team's reward before callbacks and connectors change it; after every step.
        agent_terminateds: bool (n,), whether an agent's own episode ended with this step; absent if none did.
        agent_earns: bool (n,), whether an agent was part of the episode before the step: it had appeared and had not
            terminated or been truncated. Absent if all were. True for agents that are dead due to `alive: False` or
            that pause.
        agent_infos: The environment's own infos, {agent: info}; also after a reset. Absent if they are empty.
        episode_agent_returns: float32 (n,), the sums of agent_rewards; after the last step.
        win: If the environment reports one (battle_won, won, win, success, is_success): after the last step.
        task, episode_return: If the environment's infos name the current task, its name and the team's return; after
            the last step.

    An episode is truncated if it ended while some agent could have continued, otherwise terminated. In the last
    observation after truncation, the living agents are those whose values are bootstrapped.

    The environment is `env`; `get_wrapper_attr` also finds its attributes and methods, as in gymnasium's wrappers.
    `unwrapped` is the joint environment.

    Args:
        env: The environment. It is reset once here to find out whether it provides masks.
        agent_ids: Whether observations end with the agent's one-hot index. Encoders without positions need it.
        team_reward: "mean" or "sum" of the rewards of all agents (a dead agent without a reward counts as 0). Agents of
            a ParallelEnv that are absent at the start of an episode are not counted in its mean.
        global_state: Whether observations include the environment's `state()`.
        name: The environment's name in messages; its own name by default.

    Raises:
        TypeError: `env` is not a multi-agent environment.
        JointEnvError: The environment has no agents, its spaces cannot be joined, or the results of a reset or step
            are invalid. The message names the environment, the step and the agent.
    """

    def __init__(
        self,
        env: Any,
        *,
        agent_ids: bool = True,
        team_reward: str = "mean",
        global_state: bool = False,
        name: str | None = None,
    ):
        self.env = env
        self.name = name or (getattr(env, "metadata", None) or {}).get("name") or type(env).__name__
        try:
            self.reader = TeamReader(env, agent_ids=agent_ids, global_state=global_state)
        except (LayoutError, JointEnvError) as error:
            raise JointEnvError(f"{self.name}: {error}") from error.__cause__
        self.layout = self.reader.layout
        self.team_reward = team_reward
        self._teams = EnvTeams(self.name, [self.reader], team_reward=team_reward)
        self.observation_space = self.layout.observation_space
        self.action_space = self.layout.action_space
        self.metadata = dict(getattr(env, "metadata", None) or {"render_modes": []})
        self.render_mode = getattr(env, "render_mode", None)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Start an episode; return the joint observation and the info."""
        super().reset(seed=seed)
        arrays = self.layout.blank(1)
        infos = self._teams.reset_into(arrays, [seed], options)
        return _only(arrays), _only_info(infos)

    def step(self, action: Any) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Step the team; return the joint observation, team reward, terminated, truncated and info."""
        if not self.reader.running:
            raise JointEnvError(f"{self.name}: no episode is running. Call reset() first.")
        arrays = self.layout.blank(1)
        rewards, terminated, truncated, infos = self._teams.step_into(np.asarray(action)[None], arrays)
        return _only(arrays), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), _only_info(infos)

    def render(self) -> Any:
        """Render the environment."""
        render = getattr(self.env, "render", None)
        if render is None:
            raise JointEnvError(f"{self.name}: it has no method render(). Add it.")
        return render()

    def close(self) -> None:
        """Close the environment, if it has a method close()."""
        close = getattr(self.env, "close", None)
        if close is not None:
            close()

    # -- attributes of the user's environment, as in gymnasium's wrappers ------------------------------------

    def has_wrapper_attr(self, name: str) -> bool:
        """Return whether the joint environment or the user's has this attribute."""
        return hasattr(self, name) or hasattr(self.env, name)

    def get_wrapper_attr(self, name: str) -> Any:
        """Return the joint environment's attribute or method of this name, otherwise the user's environment's."""
        return getattr(self, name) if hasattr(self, name) else getattr(self.env, name)

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        """Set an attribute on its owner or, with `force`, as a new one on the user's environment."""
        owner = self if hasattr(self, name) else self.env
        if not (force or hasattr(owner, name)):
            return False
        setattr(owner, name, value)
        return True


def _only(arrays: Arrays) -> Arrays:
    return {name: array[0] for name, array in arrays.items()}


def _only_info(infos: dict[str, Any]) -> dict[str, Any]:
    """Extract the info of a single team from a vector environment's infos."""
    info = {name: infos[name][0] for name in infos if name[0] != "_" and infos[f"_{name}"][0]}
    if AGENT_INFOS in info:  # gymnasium's vector environments would split a plain dict by agent
        info[AGENT_INFOS] = AgentInfos(info[AGENT_INFOS])
    return info
