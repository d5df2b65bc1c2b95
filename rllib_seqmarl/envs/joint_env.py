"""An n-agent environment as one environment: joint observations in, one joint action out.

RLlib then steps a whole team as it steps a single agent, so the cost of a step does not grow with per-agent
episodes. What is each agent's own, its reward above all, travels in `info`.
"""

import math
from collections import UserDict
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from rllib_seqmarl.envs.adapters import ALL, adapt
from rllib_seqmarl.envs.agent_spaces import ALIVE_KEY, TASK_KEY, AgentID, mask_in
from rllib_seqmarl.envs.errors import JointEnvError, LayoutError
from rllib_seqmarl.envs.layout import STATE, Arrays, TeamLayout
from rllib_seqmarl.envs.options import check_choice

TEAM_REWARDS = ("mean", "sum")
AGENT_ORDERS = ("fixed", "shuffled")
AGENT_INFOS = "agent_infos"
WIN_KEYS = ("battle_won", "won", "win", "success", "is_success")


class JointEnv(gym.Env):
    """A PettingZoo ParallelEnv or RLlib MultiAgentEnv whose team acts as one.

    Observations are a dictionary of arrays with one row per agent:
        observations: float32 (n, obs_dim), padded with zeros to the widest agent, then n entries of agent id; uint8
            if all agents see images of one size.
        alive: int8 (n,). A dead or absent agent keeps its row: it observes nothing and acts by its first
            choice. An agent is dead once it has terminated, or while its info says `alive: False`: then it stays one of
            the environment's agents, and what the team still earns counts for it.
        action_mask: int8 (n, width), 1 where legal; there if the environment masks actions or actions are
            padded.
        state: float32 (s,), with `global_state=True`.

    Actions are `TeamLayout.action_space`: choices (n,) or (n, k), or real numbers (n, dim).

    The reward is the team's. Infos hold:
        agent_rewards: float32 (n,), each agent's own; after every step.
        agent_terminateds: bool (n,), whose life ended with this step; where somebody's did.
        episode_agent_returns: float32 (n,), the sums of agent_rewards in the layout's order; after the last step.
        agent_infos: {agent: info}, the infos that the environment gave, where it gave any; after resets and steps.
        win: where the environment reports one (battle_won, won, win, success, is_success); after the last
            step.
        task, episode_return: where the environment's infos name the task that was played, its name and the team's
            return; after the last step.

    An episode is truncated if it ended while some agent could have gone on, otherwise terminated. In the last
    observation after truncation, the agents whose value bootstraps are the living ones.

    Args:
        env: the environment. It is reset once here, to see what it gives.
        agent_ids: whether observations end with the agent's one-hot number. Encoders without positions need
            it.
        team_reward: "mean" or "sum" of the rewards of all agents (a dead agent's counts as given, else as 0).
            Agents of a ParallelEnv that are absent when an episode begins are not counted in its mean.
        global_state: whether observations hold the environment's `state()`.
        agent_order: "fixed": row i is agent i; or "shuffled": rows change places with every episode, which takes
            agents with equal action spaces. Agent ids go with their agents.
        name: what messages call the environment; its own name by default.

    Raises:
        TypeError: `env` is no multi-agent environment.
        JointEnvError: it has no agents, its spaces cannot be joined, or, at reset or step, it breaks a
            promise: the message names the environment, the step and the agent.
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
        self._adapter = adapt(env)
        self._step = 0
        try:
            self.layout = self._find_layout(agent_ids, global_state)
        except (LayoutError, JointEnvError) as error:
            raise JointEnvError(f"{self.name}: {error}") from None
        self.observation_space = self.layout.observation_space
        self.action_space = self.layout.action_space
        self.metadata = dict(getattr(env, "metadata", None) or {"render_modes": []})
        self.render_mode = getattr(env, "render_mode", None)

        check_joint_options(self.name, self.layout, team_reward, agent_order)
        self._shuffles = agent_order == "shuffled"
        self._agents = self.layout.agents
        self._order = np.arange(len(self._agents))  # row i is agent _order[i]
        self._takes_mean = team_reward == "mean"
        self._reward_share = 1.0
        self._returns = np.zeros(len(self._agents))  # of the current episode
        self._acting: tuple[AgentID, ...] = ()  # who acts next
        self._gone: set[AgentID] = set()  # whose episode has ended
        self._running = False

    def _find_layout(self, agent_ids: bool, global_state: bool) -> TeamLayout:
        agents = self._adapter.agents
        spaces = [self._adapter.spaces_of(agent) for agent in agents]
        _, infos = self.env.reset()
        self._tells_alive = any(ALIVE_KEY in infos.get(agent, ()) for agent in agents)
        return TeamLayout(
            agents=agents,
            observation_spaces=tuple(observation for observation, _ in spaces),
            action_spaces=tuple(action for _, action in spaces),
            agent_ids=agent_ids,
            info_masks=any(mask_in(infos, agent) is not None for agent in agents),
            state_dim=self._state_size() if global_state else 0,
        )

    def _state_size(self) -> int:
        try:
            return np.size(self.env.state())
        except (AttributeError, NotImplementedError):
            raise JointEnvError("it has no global state (no `state()`). Set global_state=False.") from None

    # -- gymnasium.Env ---------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Starts an episode; returns the joint observation and an empty info."""
        arrays = self.layout.blank()
        return arrays, self.reset_into(arrays, seed=seed, options=options)

    def step(self, action: Any) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Steps the team; returns joint observation, team reward, terminated, truncated and info."""
        arrays = self.layout.blank()
        return arrays, *self.step_into(action, arrays)

    def render(self) -> Any:
        """What the environment renders."""
        return self.env.render()

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    def __getattr__(self, name: str) -> Any:
        # The user's environment has methods such as `set_task`, which gymnasium's `get_wrapper_attr` finds here.
        if name.startswith("_") or name == "env":
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        return getattr(self.env, name)

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        """Sets an attribute of the user's environment, as gymnasium's wrappers do."""
        if name in vars(self) or not (force or hasattr(self.env, name)):
            return bool(super().set_wrapper_attr(name, value, force=force))
        setattr(self.env, name, value)
        return True

    # -- the same, into given arrays -------------------------------------------------------------------------

    def reset_into(
        self, arrays: Arrays, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """As `reset`, with the observation written into blank arrays of the caller's; returns the info."""
        super().reset(seed=seed)
        self._step, self._running = 0, True
        self._gone.clear()
        self._returns[:] = 0.0
        observations, infos = self.env.reset(seed=seed, options=options)
        if self._takes_mean:
            self._reward_share = 1.0 / (self._adapter.awaited() or len(self._agents))
        try:
            if not observations:
                raise JointEnvError("no agent has an observation. Somebody must be able to act after a reset.")
            self._observe(arrays, observations, infos, over=False)
        except (LayoutError, JointEnvError) as error:
            raise JointEnvError(f"{self.name}, at reset: {error}") from None
        if self._shuffles:
            self._order = self.np_random.permutation(len(self._agents))
            self._arrange(arrays)
        return _agent_infos(infos)

    def step_into(self, action: Any, arrays: Arrays) -> tuple[float, bool, bool, dict[str, Any]]:
        """As `step`, with the observation written into blank arrays of the caller's; returns all the rest."""
        self._step += 1
        try:
            if not self._running:
                raise JointEnvError("no episode is running. Call reset() first.")
            if self._shuffles:
                action = np.asarray(action)[np.argsort(self._order)]
            actions = self.layout.split(action, self._acting)
            observations, rewards, terminated, truncated, infos = self.env.step(actions)
            reward, agent_rewards = self._read_rewards(rewards)
            team_terminated = team_truncated = False
            somebody_ended = any(terminated.values()) or any(truncated.values())
            if somebody_ended:
                team_terminated, team_truncated = self._bury(terminated, truncated)
            over = team_terminated or team_truncated
            self._observe(arrays, observations, infos, over)
        except (LayoutError, JointEnvError) as error:
            raise JointEnvError(f"{self.name}, step {self._step}: {error}") from None
        if self._shuffles:
            self._arrange(arrays)
        info: dict[str, Any] = {"agent_rewards": agent_rewards[self._order] if self._shuffles else agent_rewards}
        info["team_reward"] = reward  # callbacks and connectors may change the episode's rewards, which is seen by this
        # An agent that is cut off while others go on leaves no last observation to value, so its life ends as well.
        if somebody_ended:
            ended = [bool(terminated.get(a) or (truncated.get(a) and not over)) for a in self._agents]
            if any(ended):
                info["agent_terminateds"] = np.array(ended)[self._order]
        if over:
            self._running = False
            info["episode_agent_returns"] = self._returns.astype(np.float32)
            win = _find_win(infos)
            if win is not None:
                info["win"] = win
            tasks = [found[TASK_KEY] for found in infos.values() if isinstance(found, Mapping) and TASK_KEY in found]
            if tasks:
                info[TASK_KEY] = str(tasks[0])
                info["episode_return"] = float(self._returns.sum()) * self._reward_share
        info |= _agent_infos(infos)
        return reward, team_terminated, team_truncated, info

    def _arrange(self, arrays: Arrays) -> None:
        """Puts every agent's row where the episode's order has it."""
        for name, array in arrays.items():
            if name != STATE:
                array[:] = array[self._order]

    def _observe(self, arrays: Arrays, observations: Mapping[Any, Any], infos: Mapping[Any, Any], over: bool) -> None:
        """Notes who is to act next and writes what they see."""
        gone = self._gone
        self._acting = acting = tuple([a for a in self._agents if a in observations and a not in gone])
        if not over:
            awaited = self._adapter.awaited()
            if awaited is not None and awaited != len(acting):
                self._say_who_is_missing(acting)
        if len(acting) != len(observations):
            self._check_known(observations)
            observations = {agent: observations[agent] for agent in acting}
        if self._tells_alive:
            observations = {agent: observations[agent] for agent in acting if infos[agent].get(ALIVE_KEY, True)}
        layout = self.layout
        masks = {agent: mask_in(infos, agent) for agent in acting} if layout.info_masks else None
        state = self.env.state() if layout.state_dim else None
        layout.write(arrays, observations, masks, state, last=over)

    def _read_rewards(self, rewards: Mapping[Any, Any]) -> tuple[float, np.ndarray]:
        """The team's reward and each agent's; RLlib may leave agents out, whose reward is then 0."""
        values = [rewards.get(agent, 0.0) for agent in self._agents]
        try:
            total = float(sum(values))
            agent_rewards = np.array(values, np.float32)  # (n,)
        except (TypeError, ValueError):
            raise JointEnvError(f"rewards must be one number per agent, not {dict(rewards)}.") from None
        if not math.isfinite(total):
            agent, value = next(pair for pair in zip(self._agents, values, strict=True) if not math.isfinite(pair[1]))
            raise JointEnvError(f"agent {agent!r}: its reward is {value}.")
        self._returns += agent_rewards
        return total * self._reward_share, agent_rewards

    def _bury(self, terminated: Mapping[Any, bool], truncated: Mapping[Any, bool]) -> tuple[bool, bool]:
        """Takes out agents whose episode has ended; returns whether the team's terminated, was truncated."""
        died = {agent for agent in self._agents if terminated.get(agent)}
        cut = {agent for agent in self._agents if truncated.get(agent)} - died - self._gone
        ended_for_all = terminated.get(ALL) or truncated.get(ALL) or self._adapter.awaited() == 0
        if not ended_for_all and len(self._gone | died | cut) < len(self._agents):
            self._gone |= died | cut
            return False, False
        if (cut or truncated.get(ALL)) and not terminated.get(ALL):
            self._gone |= died  # Who was cut off is alive in the last observation: its value bootstraps.
            return False, True
        return True, False

    # -- what can be wrong -----------------------------------------------------------------------------------

    def _say_who_is_missing(self, acting: tuple[AgentID, ...]) -> None:
        missing = [agent for agent in self.env.agents if agent not in acting]
        if missing:
            raise JointEnvError(
                f"agent {missing[0]!r} is missing: `agents` says that it acts next, but it has no "
                "observation, is unknown to `possible_agents`, or has already terminated or been truncated."
            )
        extra = [agent for agent in acting if agent not in self.env.agents]
        raise JointEnvError(
            f"agent {extra[0]!r} left `agents` without being terminated or truncated. Set one of the two "
            "flags when an agent's episode ends."
        )

    def _check_known(self, observations: Mapping[Any, Any]) -> None:
        unknown = [agent for agent in observations if agent not in self._agents]
        if unknown and self._adapter.awaited() is None:  # PettingZoo allows further keys, such as "common".
            raise JointEnvError(
                f"agent {unknown[0]!r} has an observation but is not in `possible_agents` "
                f"({', '.join(map(repr, self._agents[:8]))}). Name there all agents that may ever appear."
            )


def check_joint_options(name: str, layout: TeamLayout, team_reward: str, agent_order: str) -> None:
    """Raises ValueError for a wrong value, JointEnvError for one that does not suit the team."""
    check_choice("team_reward", team_reward, TEAM_REWARDS)
    check_choice("agent_order", agent_order, AGENT_ORDERS)
    if agent_order == "shuffled" and any(space != layout.action_spaces[0] for space in layout.action_spaces):
        raise JointEnvError(
            f"{name}: agent_order='shuffled' needs agents with equal action spaces, since any of them may "
            f"stand in any row. Write agent_order='fixed'."
        )


def _agent_infos(infos: Mapping[Any, Any]) -> dict[str, Any]:
    """The part of a joint info that holds the agents' own."""
    if not any(infos.values()):
        return {}
    # Not a dict: gymnasium's vector environments would take that apart, agent by agent.
    return {AGENT_INFOS: UserDict({agent: info for agent, info in infos.items() if info})}


def _find_win(infos: Mapping[Any, Any]) -> float | None:
    """The team's win, if some info tells: the common one if there is one, otherwise the agents' mean."""
    common = [infos, *(infos[key] for key in ("common", "__common__") if key in infos)]
    for sources in (common, [info for info in infos.values() if isinstance(info, Mapping)]):
        wins = [float(info[key]) for info in sources for key in WIN_KEYS if key in info]
        if wins:
            return sum(wins) / len(wins)
    return None
