"""Reads and validates the results of multi-agent environments, for both training and `check_joint_env`."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rllib_seqmarl.envs.adapters import ALL, agent_names, is_multi_agent, require_multi_agent, reset_options, spaces_of
from rllib_seqmarl.envs.agent_spaces import ALIVE_KEY, MASK_KEY, TASK_KEY, AgentID, Space, check_channels
from rllib_seqmarl.envs.errors import JointEnvError
from rllib_seqmarl.envs.layout import Arrays, TeamLayout, missing_mask
from rllib_seqmarl.envs.numbers import as_flag, as_number

logger = logging.getLogger(__name__)

WIN_KEYS = ("battle_won", "won", "win", "success", "is_success")
STEP_RESULTS = ("observations", "rewards", "terminated", "truncated", "infos")
Infos = Mapping[Any, Any]
_LEFT_WITHOUT_FLAG = (
    "agent {} left `agents` without being terminated or truncated. "
    "Set one of the two flags when an agent's episode ends."
)


class TeamStep(NamedTuple):
    """The result of a step of one team, with agents in the layout's order.

    Attributes:
        rewards: One per agent.
        terminated, truncated: Whether the team's episode was terminated or truncated.
        infos: The environment's infos; None if they are empty.
        ended: Whether each agent's own episode ended with this step, so that values are not bootstrapped; None if none.
        earns: Whether each agent was part of the episode before this step; None if all were.
        summary: `win` and `task`, if an episode's last infos contain them.
    """

    rewards: list[float]
    terminated: bool
    truncated: bool
    infos: Infos | None
    ended: list[bool] | None
    earns: list[bool] | None
    summary: dict[str, Any]


class TeamReader:
    """Resets and steps a ParallelEnv or MultiAgentEnv and writes its results into the arrays of a layout.

    Args:
        env: The environment.
        agent_ids, global_state: As in JointEnv.

    Attributes:
        layout: The layout of the arrays, inferred from the spaces and one reset.
        acting: The agents that act next.
        running: Whether an episode is running.

    Raises:
        TypeError: `env` is not a multi-agent environment.
        LayoutError, JointEnvError: In the constructor, `reset` or `step`: the results of `env` are invalid. The message
            states the problem and a remedy, but neither the environment's name nor the step.
    """

    def __init__(self, env: Any, *, agent_ids: bool, global_state: bool):
        self.env = env
        require_multi_agent(env)
        self._is_parallel = not is_multi_agent(env)  # `env.agents` lists the agents that act next
        self._has_warned = False
        self._accepts = reset_options(env)
        self._agents = agent_names(env)
        spaces = [self._spaces_of(agent) for agent in self._agents]
        _, infos = self._read_reset(self._call_reset(None, None))
        own_infos = [(infos or {}).get(agent) or {} for agent in self._agents]
        self.layout = TeamLayout(
            agents=self._agents,
            observation_spaces=tuple(observation for observation, _ in spaces),
            action_spaces=tuple(action for _, action in spaces),
            agent_ids=agent_ids,
            info_masks=any(info.get(MASK_KEY) is not None for info in own_infos),
            state_dim=self._state().size if global_state else 0,
        )
        self._has_observed_mask = {own.agent for own in self.layout.observed if own.has_mask}
        self._masked: set[AgentID] = set()  # agents whose infos have had a mask
        self.acting: tuple[AgentID, ...] = ()
        self._done: set[AgentID] = set()  # agents whose episode has ended
        self._absent: set[AgentID] = set()  # agents that have not appeared in this episode
        self.running = False

    def _spaces_of(self, agent: AgentID) -> tuple[Space, Space]:
        try:
            observation, action = spaces_of(self.env, agent)
        except JointEnvError:
            raise
        except Exception as error:
            raise JointEnvError(
                f"agent {agent!r}: getting its spaces raised {type(error).__name__}: {error}."
            ) from error
        check_channels(agent, observation)
        return observation, action

    # -- resets ----------------------------------------------------------------------------------------------

    def reset(self, arrays: Arrays, seed: int | None = None, options: dict[str, Any] | None = None) -> Infos | None:
        """Start an episode; write the observation into blank arrays (n, ...) and return the environment's infos."""
        self.running = True
        self._done.clear()
        observations, infos = self._read_reset(self._call_reset(seed, options))
        if not observations:
            raise JointEnvError("no agent has an observation. At least one agent must act after a reset.")
        self._absent = set(self._agents)
        self._observe(arrays, observations, infos, over=False)
        return infos

    def num_present(self) -> int:
        """The number of agents present at the start of an episode."""
        return len(self.env.agents) if self._is_parallel and len(self.env.agents) else len(self._agents)

    def _call_reset(self, seed: int | None, options: dict[str, Any] | None) -> Any:
        given: dict[str, Any] = {"seed": seed, "options": options}
        if options is not None and "options" not in self._accepts:
            raise JointEnvError("reset() was called with options but has no parameter `options`. Add `options=None`.")
        if seed is not None and "seed" not in self._accepts and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s cannot be seeded, so its episodes are not reproducible: reset() has no parameter `seed`. Add "
                "`seed=None`.",
                type(self.env).__name__,
            )
        return self.env.reset(**{name: given[name] for name in ("seed", "options") if name in self._accepts})

    def _read_reset(self, result: Any) -> tuple[Mapping[Any, Any], Infos | None]:
        if not (isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[0], Mapping)):
            old = " It returned only observations, as before gymnasium 0.26." if isinstance(result, Mapping) else ""
            raise JointEnvError(
                f"reset() must return two dictionaries, (observations, infos), not {_describe(result)}.{old}"
            )
        return result[0], self._read_infos(result[1])

    # -- steps -----------------------------------------------------------------------------------------------

    def step(self, rows: Any, arrays: Arrays) -> TeamStep:
        """Step the team with one joint action, as returned by `TeamLayout.rows`; write into blank arrays (n, ...)."""
        if not self.running:
            raise JointEnvError("no episode is running. Call reset() first.")
        acting, done = self.acting, self._done
        result = self.env.step(self.layout.decode(rows, acting))
        if not (isinstance(result, (tuple, list)) and len(result) == 5):
            is_old = isinstance(result, tuple) and len(result) == 4
            old = " Returning four values was the API before gym 0.26." if is_old else ""
            raise JointEnvError(
                f"step() must return five dictionaries, ({', '.join(STEP_RESULTS)}), not {_describe(result)}.{old}"
            )
        observations, rewards, terminated, truncated, infos = result
        if not observations.__class__ is rewards.__class__ is terminated.__class__ is truncated.__class__ is dict:
            _check_mappings(result)
        infos = self._read_infos(infos)
        values = self._read_rewards(rewards)
        earns = None
        if done or self._absent:
            earns = [agent not in done and agent not in self._absent for agent in self._agents]
            self._check_revived(observations)
        has_terminated = self._check_flags("terminated", terminated)
        has_truncated = self._check_flags("truncated", truncated)
        team_terminated = team_truncated = False
        ended = None
        if has_terminated or has_truncated:
            before = set(done)
            team_terminated, team_truncated = self._mark_done(terminated, truncated)
            over = team_terminated or team_truncated
            # An agent truncated while others continue has no later value to bootstrap from, so it counts as ended.
            ended = [
                bool(agent not in before and (terminated.get(agent) or (truncated.get(agent) and not over)))
                for agent in self._agents
            ]
        over = team_terminated or team_truncated
        if over:
            self._check_flagged(terminated, truncated)
        self._observe(arrays, observations, infos, over)
        if team_truncated:
            self._check_bootstrap(observations, truncated)
        self.running = not over
        return TeamStep(
            values,
            team_terminated,
            team_truncated,
            infos,
            ended if ended and any(ended) else None,
            earns,
            _summary(infos) if over and infos else {},
        )

    def _read_rewards(self, rewards: Mapping[Any, Any]) -> list[float]:
        """Each agent's reward, 0 if missing; only RLlib's environments may omit rewards of acting agents."""
        values = [rewards.get(agent, 0.0) for agent in self._agents]
        for row, value in enumerate(values):
            if value.__class__ is not float:
                values[row] = as_number(value, f"agent {self._agents[row]!r}: its reward")
        if len(rewards) != len(values):
            unknown = [agent for agent in rewards if agent not in self._agents]
            if unknown:
                raise JointEnvError(f"agent {unknown[0]!r} has a reward but is not in {self._possible_agents()}.")
            missing = [agent for agent in self.acting if agent not in rewards] if self._is_parallel else []
            if missing:
                raise JointEnvError(f"agent {missing[0]!r} acted but has no reward. Return one, such as 0.0.")
        return values

    def _check_flags(self, name: str, flags: Mapping[Any, Any]) -> bool:
        """Check `terminated` or `truncated`; return whether any flag is set."""
        needed: Iterable[Any] = self.acting if self._is_parallel else (ALL,)
        for agent in needed:
            if agent not in flags:
                raise JointEnvError(f"{name} has no entry for {agent!r}. Return True or False at every step.")
        is_set = False
        for agent, flag in flags.items():
            if flag.__class__ is not bool:
                as_flag(flag, f"agent {agent!r}: {name}")
            if flag:
                is_set = True
        return is_set

    def _mark_done(self, terminated: Mapping[Any, bool], truncated: Mapping[Any, bool]) -> tuple[bool, bool]:
        """Note agents whose episode has ended; return whether the team's was terminated, and whether truncated."""
        dead = {agent for agent in self._agents if terminated.get(agent)}
        cut = {agent for agent in self._agents if truncated.get(agent)} - dead - self._done
        ended_for_all = terminated.get(ALL) or truncated.get(ALL) or (self._is_parallel and not len(self.env.agents))
        if not ended_for_all and len(self._done | dead | cut) < len(self._agents):
            self._done |= dead | cut
            return False, False
        if (cut or truncated.get(ALL)) and not terminated.get(ALL):
            self._done |= dead  # Truncated agents are alive in the last observation, so their values are bootstrapped.
            return False, True
        return True, False

    def _check_flagged(self, terminated: Mapping[Any, bool], truncated: Mapping[Any, bool]) -> None:
        """Check that each agent of a ParallelEnv was terminated or truncated at the end of the episode."""
        for agent in self.acting if self._is_parallel else ():
            if not any(flags.get(key) for flags in (terminated, truncated) for key in (agent, ALL)):
                raise JointEnvError(_LEFT_WITHOUT_FLAG.format(repr(agent)))

    def _check_bootstrap(self, observations: Mapping[Any, Any], truncated: Mapping[Any, bool]) -> None:
        """Check that there are observations to bootstrap values from after truncation."""
        cut = [agent for agent in self._agents if truncated.get(agent) and agent not in self._done]
        missing = [agent for agent in cut if agent not in observations]
        if missing or not observations:
            who = f"agent {missing[0]!r} is" if missing else "the team is"
            raise JointEnvError(
                f"{who} truncated but has no last observation, which is needed to bootstrap its value. Return it "
                "with the last step; or, if the episode reached a terminal state, set `terminated` instead."
            )

    # -- observations and infos ------------------------------------------------------------------------------

    def _observe(self, arrays: Arrays, observations: Mapping[Any, Any], infos: Infos | None, over: bool) -> None:
        """Determine which agents act next, and write their observations."""
        done = self._done
        self.acting = acting = tuple([a for a in self._agents if a in observations and a not in done])
        if self._absent:
            self._absent.difference_update(acting)
        if self._is_parallel and not over and len(self.env.agents) != len(acting):
            self._raise_missing(acting)
        if len(acting) != len(observations):
            self._check_known(observations)
            observations = {agent: observations[agent] for agent in acting}
        masks: dict[AgentID, Any] = {}
        if infos is not None:
            dead = []
            for agent in acting:
                info = infos.get(agent)
                if not info:
                    continue
                if ALIVE_KEY in info and not as_flag(info[ALIVE_KEY], f"agent {agent!r}: its info's `{ALIVE_KEY}`"):
                    dead.append(agent)
                elif info.get(MASK_KEY) is not None:
                    masks[agent] = info[MASK_KEY]
            if dead:
                observations = {agent: observations[agent] for agent in acting if agent not in dead}
        if not over and (masks or self._masked):
            self._check_masks(observations, masks)
        layout = self.layout
        layout.place(arrays, observations, masks, self._state() if layout.state_dim else None, last=over)

    def _check_masks(self, observations: Mapping[Any, Any], masks: Mapping[AgentID, Any]) -> None:
        if not self.layout.info_masks:
            new = [agent for agent in masks if agent not in self._has_observed_mask]
            if new:
                raise JointEnvError(
                    f"agent {new[0]!r} has an action mask, but no agent had one at the first reset. Put masks into the "
                    "infos of reset() as well (all ones if everything is legal)."
                )
            return
        self._masked.update(masks)
        if len(masks) < len(observations):
            for agent in observations:
                if agent in self._masked and agent not in masks:
                    raise missing_mask(agent)

    def _read_infos(self, infos: Any) -> Infos | None:
        """Return the infos, or None if they are all empty. An agent's may be missing or None."""
        if infos is None:
            return None
        if infos.__class__ is not dict and not isinstance(infos, Mapping):
            raise JointEnvError(f"infos must be a dictionary {{agent: info}}, not {_describe(infos)}.")
        has_entries = False
        for agent, info in infos.items():
            if info.__class__ is dict:
                if info:
                    has_entries = True
            elif info is not None:
                if agent in self._agents and not isinstance(info, Mapping):
                    raise JointEnvError(f"agent {agent!r}: its info must be a dictionary, not {_describe(info)}.")
                has_entries = True
        return infos if has_entries else None

    def _state(self) -> np.ndarray:
        try:
            state = getattr(self.env, "state", None)
            state = state() if callable(state) else state
        except NotImplementedError:
            state = None
        if state is None:
            raise JointEnvError("it has no global state (no `state()`, or it returns None). Set global_state=False.")
        try:
            array = np.asarray(state)
        except ValueError:  # arrays of several sizes
            array = np.empty(0)
        if isinstance(state, Mapping) or not array.size:
            raise JointEnvError(f"its global state is {_describe(state)}. Return one array of numbers from `state()`.")
        return array

    # -- errors ----------------------------------------------------------------------------------------------

    def _raise_missing(self, acting: tuple[AgentID, ...]) -> None:
        missing = [agent for agent in self.env.agents if agent not in acting]
        if missing:
            raise JointEnvError(
                f"agent {missing[0]!r} is missing: it is in `agents`, so it acts next, but it has no "
                "observation, is not in `possible_agents`, or has already been terminated or truncated."
            )
        extra = [agent for agent in acting if agent not in self.env.agents]
        raise JointEnvError(_LEFT_WITHOUT_FLAG.format(repr(extra[0])))

    def _check_known(self, observations: Mapping[Any, Any]) -> None:
        unknown = [agent for agent in observations if agent not in self._agents]
        if unknown and not self._is_parallel:  # PettingZoo allows additional keys, such as "common".
            raise JointEnvError(
                f"agent {unknown[0]!r} has an observation but is not in {self._possible_agents()}. "
                "List all agents that can ever appear there."
            )

    def _check_revived(self, observations: Mapping[Any, Any]) -> None:
        revived = [agent for agent in self._done if agent in observations]
        if revived and not self._is_parallel:
            raise JointEnvError(
                f"agent {revived[0]!r} has an observation, but was already terminated or truncated in this "
                "episode. Omit it until the next one."
            )

    def _possible_agents(self) -> str:
        return f"`possible_agents` ({', '.join(map(repr, self._agents[:8]))})"


def _check_mappings(result: Sequence[Any]) -> None:
    for name, part in zip(STEP_RESULTS[:4], result, strict=False):
        if not isinstance(part, Mapping):
            raise JointEnvError(
                f"step() must return {name} as a dictionary with one entry per agent, not {_describe(part)}."
            )


def _summary(infos: Infos) -> dict[str, Any]:
    """Extract the outcome from an episode's last infos: `win` (common, or the agents' mean) and `task`."""
    summary: dict[str, Any] = {}
    own = [info for info in infos.values() if isinstance(info, Mapping)]
    common = [infos, *(infos[key] for key in ("common", "__common__") if isinstance(infos.get(key), Mapping))]
    for sources in (common, own):
        wins = [
            as_number(info[key], f"the win in infos under {key!r}")
            for info in sources
            for key in WIN_KEYS
            if info.get(key) is not None
        ]
        if wins:
            summary["win"] = sum(wins) / len(wins)
            break
    tasks = [info[TASK_KEY] for info in own if isinstance(info.get(TASK_KEY), str)]
    if tasks:
        summary[TASK_KEY] = tasks[0]
    return summary


def _describe(value: Any) -> str:
    """Describe a value in a message: its type, and its repr if that is short."""
    text = repr(value)
    kind = type(value).__name__
    if isinstance(value, tuple | list):
        kind += f" of {len(value)}"
    return f"{kind} {text}" if len(text) <= 60 else f"a {kind}"
