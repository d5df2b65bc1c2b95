"""The one reading of what a multi-agent environment returns: training and `check_joint_env` both go through it."""

import inspect
import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from rllib_seqmarl.envs.adapters import ALL, adapt
from rllib_seqmarl.envs.agent_spaces import ALIVE_KEY, MASK_KEY, TASK_KEY, AgentID, Space, has_channels_first
from rllib_seqmarl.envs.errors import JointEnvError
from rllib_seqmarl.envs.layout import Arrays, TeamLayout, missing_mask
from rllib_seqmarl.envs.numbers import as_flag, as_number

logger = logging.getLogger(__name__)

WIN_KEYS = ("battle_won", "won", "win", "success", "is_success")
STEP_RESULTS = ("observations", "rewards", "terminated", "truncated", "infos")
Infos = Mapping[Any, Any]
_LEFT = (
    "agent {} left `agents` without being terminated or truncated. "
    "Set one of the two flags when an agent's episode ends."
)


class TeamStep(NamedTuple):
    """A step of one team; agents are in the layout's order.

    Attributes:
        rewards: Each agent's own.
        terminated, truncated: Whether the team's episode was.
        infos: The environment's own; None if there is nothing in them.
        ended: The agents whose episode ended for good with this step; None if there are none.
        earns: The agents whose return was running before this step; None if all were.
        summary: `win` and `task`, where the last infos of an episode hold them.
    """

    rewards: list[float]
    terminated: bool
    truncated: bool
    infos: Infos | None
    ended: list[bool] | None
    earns: list[bool] | None
    summary: dict[str, Any]


class TeamReader:
    """Resets and steps a ParallelEnv or MultiAgentEnv, and reads what it returns into the arrays of a layout.

    Args:
        env: The environment.
        agent_ids, global_state: As JointEnv's.

    Attributes:
        layout: The places of the agents in the arrays; known from the spaces and from one reset.
        acting: The agents that act next.
        running: Whether an episode is.

    Raises:
        TypeError: `env` is no multi-agent environment.
        LayoutError, JointEnvError: Here, at `reset` or at `step`: what it returns cannot be honoured. The message says
            what and what to do, but neither the environment's name nor the step.
    """

    def __init__(self, env: Any, *, agent_ids: bool, global_state: bool):
        self.env = env
        self._adapter = adapt(env)
        self._is_parallel = self._adapter.is_parallel
        self._has_warned = False
        self._accepts = _reset_options(env)
        self._agents = self._adapter.agents
        spaces = [self._spaces_of(agent) for agent in self._agents]
        _, infos = self._read_reset(self._call_reset(None, None))
        self.layout = TeamLayout(
            agents=self._agents,
            observation_spaces=tuple(observation for observation, _ in spaces),
            action_spaces=tuple(action for _, action in spaces),
            agent_ids=agent_ids,
            info_masks=any(_info_of(infos, agent).get(MASK_KEY) is not None for agent in self._agents),
            state_dim=np.size(self._state()) if global_state else 0,
        )
        self._has_own_mask = {seen.agent for seen in self.layout.observed if seen.has_mask}
        self._masked: set[AgentID] = set()  # whose infos have held a mask
        self.acting: tuple[AgentID, ...] = ()
        self._gone: set[AgentID] = set()  # whose episode has ended
        self._awaiting: set[AgentID] = set()  # who has not appeared in this episode
        self.running = False

    def _spaces_of(self, agent: AgentID) -> tuple[Space, Space]:
        try:
            observation, action = self._adapter.spaces_of(agent)
        except JointEnvError:
            raise
        except Exception as error:
            raise JointEnvError(f"agent {agent!r}: asking for its spaces raised {_told(error)}.") from error
        if has_channels_first(observation):
            raise JointEnvError(
                f"agent {agent!r} observes images of shape {observation.shape}, channels first. Put the channels last: "
                "(height, width, channels), as by np.moveaxis(image, 0, -1)."
            )
        return observation, action

    # -- resets ----------------------------------------------------------------------------------------------

    def reset(self, arrays: Arrays, seed: int | None = None, options: dict[str, Any] | None = None) -> Infos | None:
        """Starts an episode; writes the observation into blank arrays (n, ...) and returns the environment's infos."""
        self.running = True
        self._gone.clear()
        observations, infos = self._read_reset(self._call_reset(seed, options))
        if not observations:
            raise JointEnvError("no agent has an observation. At least one must be able to act after a reset.")
        self._awaiting = set(self._agents)
        self._observe(arrays, observations, infos, over=False)
        return infos

    @property
    def can_be_seeded(self) -> bool:
        """Whether the environment's reset takes a seed."""
        return "seed" in self._accepts

    def num_present(self) -> int:
        """The number of agents that are present as an episode begins."""
        return len(self.env.agents) if self._is_parallel and len(self.env.agents) else len(self._agents)

    def _call_reset(self, seed: int | None, options: dict[str, Any] | None) -> Any:
        given: dict[str, Any] = {"seed": seed, "options": options}
        if options is not None and "options" not in self._accepts:
            raise JointEnvError("reset() has no parameter `options`, but was given some. Add `options=None`.")
        if seed is not None and "seed" not in self._accepts and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s cannot be seeded, so that its episodes cannot be repeated: reset() has no parameter `seed`. Add "
                "`seed=None`.",
                type(self.env).__name__,
            )
        return self.env.reset(**{name: given[name] for name in ("seed", "options") if name in self._accepts})

    def _read_reset(self, result: Any) -> tuple[Mapping[Any, Any], Infos | None]:
        if not (isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[0], Mapping)):
            old = " It returned observations only, as before gymnasium 0.26." if isinstance(result, Mapping) else ""
            raise JointEnvError(
                f"reset() must return two dictionaries, (observations, infos), not {_told(result)}.{old}"
            )
        return result[0], self._read_infos(result[1])

    # -- steps -----------------------------------------------------------------------------------------------

    def step(self, rows: Any, arrays: Arrays) -> TeamStep:
        """Steps the team by one joint action as `TeamLayout.rows` returns it; writes into blank arrays (n, ...)."""
        if not self.running:
            raise JointEnvError("no episode is running. Call reset() first.")
        acting, gone = self.acting, self._gone
        result = self.env.step(self.layout.decode(rows, acting))
        if not (isinstance(result, tuple | list) and len(result) == 5):
            old = " Four values are gym's step before 0.26." if isinstance(result, tuple) and len(result) == 4 else ""
            raise JointEnvError(
                f"step() must return five dictionaries, ({', '.join(STEP_RESULTS)}), not {_told(result)}.{old}"
            )
        observations, rewards, terminated, truncated, infos = result
        for name, part in zip(STEP_RESULTS[:4], result, strict=False):
            if part.__class__ is not dict and not isinstance(part, Mapping):
                raise JointEnvError(
                    f"step() must return {name} as a dictionary with an entry per agent, not {_told(part)}."
                )
        infos = self._read_infos(infos)
        values = self._read_rewards(rewards)
        earns = None
        if gone or self._awaiting:
            earns = [agent not in gone and agent not in self._awaiting for agent in self._agents]
            self._check_gone(observations)
        self._check_flags(terminated, truncated)
        team_terminated = team_truncated = False
        ended = None
        if any(terminated.values()) or any(truncated.values()):
            before = set(gone)
            team_terminated, team_truncated = self._bury(terminated, truncated)
            over = team_terminated or team_truncated
            # The value of an agent that is cut off while others go on has nothing to be bootstrapped from.
            ended = [
                bool(agent not in before and (terminated.get(agent) or (truncated.get(agent) and not over)))
                for agent in self._agents
            ]
        over = team_terminated or team_truncated
        if over:
            self._check_flagged(terminated, truncated)
        self._observe(arrays, observations, infos, over)
        if team_truncated:
            self._check_last(observations, truncated)
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
        """Each agent's reward, 0 for an agent that has none; in RLlib's environments acting agents may have none."""
        values = [rewards.get(agent, 0.0) for agent in self._agents]
        for row, value in enumerate(values):
            if value.__class__ is not float:
                values[row] = as_number(value, f"agent {self._agents[row]!r}: its reward")
        if len(rewards) != len(values):
            unknown = [agent for agent in rewards if agent not in self._agents]
            if unknown:
                raise JointEnvError(f"agent {unknown[0]!r} has a reward but is not in {self._known()}.")
            missing = [agent for agent in self.acting if agent not in rewards] if self._is_parallel else []
            if missing:
                raise JointEnvError(f"agent {missing[0]!r} acted but has no reward. Give it one, 0.0 for none.")
        return values

    def _check_flags(self, *flags: Mapping[Any, Any]) -> None:
        needed: Iterable[Any] = self.acting if self._is_parallel else (ALL,)
        for name, given in zip(("terminated", "truncated"), flags, strict=True):
            for agent in needed:
                if agent not in given:
                    raise JointEnvError(f"{name} has no entry for {agent!r}. Give it one at every step: True or False.")
            for agent, flag in given.items():
                if flag.__class__ is not bool:
                    as_flag(flag, f"agent {agent!r}: {name}")

    def _bury(self, terminated: Mapping[Any, bool], truncated: Mapping[Any, bool]) -> tuple[bool, bool]:
        """Takes out agents whose episode has ended; returns whether the team's terminated, was truncated."""
        died = {agent for agent in self._agents if terminated.get(agent)}
        cut = {agent for agent in self._agents if truncated.get(agent)} - died - self._gone
        ended_for_all = terminated.get(ALL) or truncated.get(ALL) or (self._is_parallel and not len(self.env.agents))
        if not ended_for_all and len(self._gone | died | cut) < len(self._agents):
            self._gone |= died | cut
            return False, False
        if (cut or truncated.get(ALL)) and not terminated.get(ALL):
            self._gone |= died  # Agents that are cut off live in the last observation: their values bootstrap.
            return False, True
        return True, False

    def _check_flagged(self, terminated: Mapping[Any, bool], truncated: Mapping[Any, bool]) -> None:
        """At the end of a ParallelEnv's episode, whether each agent's end has a reason."""
        for agent in self.acting if self._is_parallel else ():
            if not any(flags.get(key) for flags in (terminated, truncated) for key in (agent, ALL)):
                raise JointEnvError(_LEFT.format(repr(agent)))

    def _check_last(self, observations: Mapping[Any, Any], truncated: Mapping[Any, bool]) -> None:
        """After truncation, whether there is something to bootstrap values from."""
        cut = [agent for agent in self._agents if truncated.get(agent) and agent not in self._gone]
        blind = [agent for agent in cut if agent not in observations]
        if blind or not observations:
            who = f"agent {blind[0]!r} is" if blind else "the team is"
            raise JointEnvError(
                f"{who} truncated but has no last observation, from which its value would be bootstrapped. Return it "
                "with the last step; or, if the episode truly ended, set `terminated` instead."
            )

    # -- observations and infos ------------------------------------------------------------------------------

    def _observe(self, arrays: Arrays, observations: Mapping[Any, Any], infos: Infos | None, over: bool) -> None:
        """Notes which agents act next, and writes what they observe."""
        gone = self._gone
        self.acting = acting = tuple([a for a in self._agents if a in observations and a not in gone])
        if self._awaiting:
            self._awaiting.difference_update(acting)
        if self._is_parallel and not over and len(self.env.agents) != len(acting):
            self._refuse_missing(acting)
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
            new = [agent for agent in masks if agent not in self._has_own_mask]
            if new:
                raise JointEnvError(
                    f"agent {new[0]!r} has an action mask, but no agent had one at the first reset. Put masks into the "
                    "infos of reset() as well (all ones where everything is legal)."
                )
            return
        self._masked.update(masks)
        if len(masks) < len(observations):
            for agent in observations:
                if agent in self._masked and agent not in masks:
                    raise missing_mask(agent)

    def _read_infos(self, infos: Any) -> Infos | None:
        """The infos; None if there is nothing in them. An agent's may be missing or None."""
        if infos is None:
            return None
        if not isinstance(infos, Mapping):
            raise JointEnvError(f"infos must be a dictionary {{agent: info}}, not {_told(infos)}.")
        given = False
        for agent, info in infos.items():
            if info.__class__ is dict:
                given = given or bool(info)
            elif info is not None:
                if agent in self._agents and not isinstance(info, Mapping):
                    raise JointEnvError(f"agent {agent!r}: its info must be a dictionary, not {_told(info)}.")
                given = True
        return infos if given else None

    def _state(self) -> Any:
        try:
            state = getattr(self.env, "state", None)
            state = state() if callable(state) else state
        except NotImplementedError:
            state = None
        if state is None:
            raise JointEnvError("it has no global state (no `state()`, or it returns None). Set global_state=False.")
        if isinstance(state, Mapping):
            raise JointEnvError(f"its global state is {_told(state)}. Return one array of numbers from `state()`.")
        return state

    # -- what can be wrong -----------------------------------------------------------------------------------

    def _refuse_missing(self, acting: tuple[AgentID, ...]) -> None:
        missing = [agent for agent in self.env.agents if agent not in acting]
        if missing:
            raise JointEnvError(
                f"agent {missing[0]!r} is missing: `agents` says that it acts next, but it has no "
                "observation, is unknown to `possible_agents`, or has already terminated or been truncated."
            )
        extra = [agent for agent in acting if agent not in self.env.agents]
        raise JointEnvError(_LEFT.format(repr(extra[0])))

    def _check_known(self, observations: Mapping[Any, Any]) -> None:
        unknown = [agent for agent in observations if agent not in self._agents]
        if unknown and not self._is_parallel:  # PettingZoo allows further keys, such as "common".
            raise JointEnvError(
                f"agent {unknown[0]!r} has an observation but is not in {self._known()}. "
                "Name there all agents that may ever appear."
            )

    def _check_gone(self, observations: Mapping[Any, Any]) -> None:
        back = [agent for agent in self._gone if agent in observations]
        if back and not self._is_parallel:
            raise JointEnvError(
                f"agent {back[0]!r} is back: it has an observation, but has terminated or been truncated in this "
                "episode. Leave it out until the next one."
            )

    def _known(self) -> str:
        return f"`possible_agents` ({', '.join(map(repr, self._agents[:8]))})"


def _reset_options(env: Any) -> set[str]:
    """The subset of `seed` and `options` that the environment's reset accepts."""
    names = {"seed", "options"}
    try:
        parameters = inspect.signature(env.reset).parameters
    except (TypeError, ValueError):  # written in C
        return names
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return names
    return names & parameters.keys()


def _info_of(infos: Infos | None, agent: AgentID) -> Mapping[str, Any]:
    return (infos or {}).get(agent) or {}


def _summary(infos: Infos) -> dict[str, Any]:
    """The outcome in an episode's last infos: `win`, the common one or the agents' mean, and `task`."""
    summary: dict[str, Any] = {}
    own = [info for info in infos.values() if isinstance(info, Mapping)]
    common = [infos, *(infos[key] for key in ("common", "__common__") if isinstance(infos.get(key), Mapping))]
    for sources in (common, own):
        wins = [
            as_number(info[key], f"the win that infos report under {key!r}")
            for info in sources
            for key in WIN_KEYS
            if info.get(key) is not None
        ]
        if wins:
            summary["win"] = sum(wins) / len(wins)
            break
    tasks = [info[TASK_KEY] for info in own if TASK_KEY in info]
    if tasks:
        summary[TASK_KEY] = str(tasks[0])
    return summary


def _told(value: Any) -> str:
    """A value in a message: its kind, and what it is where that is short."""
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    text = repr(value)
    kind = type(value).__name__
    if isinstance(value, tuple | list):
        kind += f" of {len(value)}"
    return f"{kind} {text}" if len(text) <= 60 else f"a {kind}"
