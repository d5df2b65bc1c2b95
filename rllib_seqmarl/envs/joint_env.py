"""An n-agent environment as one environment: joint observations in, one joint action out.

RLlib then steps a whole team as it steps a single agent, so the cost of a step does not grow with per-agent
episodes. What belongs to each agent, its reward above all, travels in `info`.
"""

from collections import UserDict
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from rllib_seqmarl.envs.errors import JointEnvError, LayoutError
from rllib_seqmarl.envs.layout import Arrays
from rllib_seqmarl.envs.read_teams import AGENT_INFOS, ReadTeams
from rllib_seqmarl.envs.team_reader import TeamReader


class AgentInfos(UserDict[Any, Any]):
    """An environment's infos by agent; two are equal if all their arrays are, which a dict cannot tell."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AgentInfos) and bool(data_equivalence(self.data, other.data))

    __hash__ = None  # type: ignore[assignment]


class JointEnv(gym.Env):
    """A PettingZoo ParallelEnv or RLlib MultiAgentEnv whose team acts as one.

    Observations are a dictionary of arrays with one row per agent:
        observations: float32 (n, obs_dim), padded with zeros to the widest agent, then n entries of agent id; uint8
            if all agents observe images of one size.
        alive: int8 (n,). A dead or absent agent keeps its row: it observes nothing and acts by its first
            choice. An agent is dead once it has terminated, or while its info holds `alive: False`: then it remains one
            of the environment's agents, and its share of what the team earns still counts.
        action_mask: int8 (n, width), 1 where legal; present if the environment masks actions or actions are
            padded. Agents that have never had a mask may choose anything.
        state: float32 (s,), with `global_state=True`.

    Actions are `TeamLayout.action_space`: choices (n,) or (n, k), or real numbers (n, dim).

    The reward is the team's. Infos hold:
        agent_rewards: float32 (n,), each agent's own; after every step.
        team_reward: The team's reward again, which callbacks and connectors leave as it is; after every step.
        agent_terminateds: bool (n,), whether an agent's life ended with this step; absent if none did.
        agent_earns: bool (n,), whether an agent's return was running when the step was made: it had appeared in the
            episode and had not terminated or been cut off. Absent if all were. Agents that are dead by `alive: False`,
            or that pause, earn.
        agent_infos: the environment's own infos, {agent: info}; also after a reset. Absent if nothing is in them.
        episode_agent_returns: float32 (n,), the sums of agent_rewards in the layout's order; after the last step.
        win: If the environment reports one (battle_won, won, win, success, is_success): after the last step.
        task, episode_return: If the environment's infos name the task that was played, its name and the team's
            return; after the last step.

    An episode is truncated if it ended while some agent could have gone on, otherwise terminated. In the last
    observation after truncation, the agents whose value bootstraps are the living ones.

    The environment is `env`; its attributes and methods are also found by `get_wrapper_attr`, as gymnasium's wrappers
    find them. `unwrapped` is the joint environment.

    Args:
        env: The environment. It is reset once here, which shows whether it gives masks.
        agent_ids: Whether observations end with the agent's one-hot number. Encoders without positions need it.
        team_reward: "mean" or "sum" of the rewards of all agents (a dead agent's counts as given, else as 0).
            Agents of a ParallelEnv that are absent when an episode begins are not counted in its mean.
        global_state: Whether observations hold the environment's `state()`.
        agent_order: "fixed": row i is agent i; or "shuffled": rows change places with every episode, which takes
            agents with equal action spaces. Agent ids go with their agents.
        name: What messages call the environment; its own name by default.

    Raises:
        TypeError: `env` is no multi-agent environment.
        JointEnvError: It has no agents, its spaces cannot be joined, or what it returns at a reset or step cannot be
            honoured. The message names the environment, the step and the agent.
    """

    def __init__(
        self,
        env: Any,
        *,
        agent_ids: bool = True,
        team_reward: str = "mean",
        global_state: bool = False,
        agent_order: str = "fixed",
        name: str | None = None,
    ):
        self.env = env
        self.name = name or (getattr(env, "metadata", None) or {}).get("name") or type(env).__name__
        try:
            self.reader = TeamReader(env, agent_ids=agent_ids, global_state=global_state)
        except (LayoutError, JointEnvError) as error:
            raise JointEnvError(f"{self.name}: {error}") from error.__cause__
        self.layout = self.reader.layout
        self.teams_options = {"team_reward": team_reward, "agent_order": agent_order}
        self._teams = ReadTeams(self.name, [self.reader], **self.teams_options)
        self.observation_space = self.layout.observation_space
        self.action_space = self.layout.action_space
        self.metadata = dict(getattr(env, "metadata", None) or {"render_modes": []})
        self.render_mode = getattr(env, "render_mode", None)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Starts an episode; returns the joint observation and an info."""
        super().reset(seed=seed)
        arrays = self.layout.blank(1)
        infos = self._teams.reset_into(arrays, [seed], options)
        return _only(arrays), _only_info(infos)

    def step(self, action: Any) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Steps the team; returns joint observation, team reward, terminated, truncated and info."""
        if not self.reader.running:
            raise JointEnvError(f"{self.name}: no episode is running. Call reset() first.")
        arrays = self.layout.blank(1)
        rewards, terminated, truncated, infos = self._teams.step_into(np.asarray(action)[None], arrays)
        return _only(arrays), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), _only_info(infos)

    def render(self) -> Any:
        """The picture that the environment renders."""
        render = getattr(self.env, "render", None)
        if render is None:
            raise JointEnvError(f"{self.name}: it has no method render(), so that there are no pictures. Add it.")
        return render()

    def close(self) -> None:
        """Closes the environment, if it can be closed."""
        close = getattr(self.env, "close", None)
        if close is not None:
            close()

    # -- the user's environment, found as through gymnasium's wrappers ---------------------------------------

    def has_wrapper_attr(self, name: str) -> bool:
        """Whether the joint environment or the user's has this attribute."""
        return hasattr(self, name) or hasattr(self.env, name)

    def get_wrapper_attr(self, name: str) -> Any:
        """The joint environment's attribute or method of this name, or else the user's environment's."""
        return getattr(self, name) if hasattr(self, name) else getattr(self.env, name)

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        """Sets an attribute where it is found, or, with `force`, as a new one of the user's environment."""
        owner = self if hasattr(self, name) else self.env
        if not (force or hasattr(owner, name)):
            return False
        setattr(owner, name, value)
        return True


def _only(arrays: Arrays) -> Arrays:
    return {name: array[0] for name, array in arrays.items()}


def _only_info(infos: dict[str, Any]) -> dict[str, Any]:
    """The info of a single team out of a vector environment's infos."""
    info = {name: infos[name][0] for name in infos if name[0] != "_" and infos[f"_{name}"][0]}
    if AGENT_INFOS in info:  # gymnasium's own vector environments would take a plain dict apart, agent by agent
        info[AGENT_INFOS] = AgentInfos(info[AGENT_INFOS])
    return info
