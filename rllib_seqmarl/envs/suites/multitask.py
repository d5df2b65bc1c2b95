"""A mixture of tasks: each episode plays one of them, with all shapes padded to the largest.

A policy trained on a mixture has one set of weights for teams of several sizes. Row i is the i-th agent of the current
task; if it has fewer agents, the last ones are absent and hence dead for a joint policy.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.agent_spaces import ALIVE_KEY, MASK_KEY, TASK_KEY
from rllib_seqmarl.envs.joint_env import JointEnv
from rllib_seqmarl.envs.layout import ACTION_MASK, ALIVE, OBSERVATIONS, Arrays
from rllib_seqmarl.envs.options import check_choice, check_names, check_number, check_options
from rllib_seqmarl.envs.parallel_env import BaseParallelEnv
from rllib_seqmarl.envs.suite import Suite
from rllib_seqmarl.envs.suites.multitask_actions import make_common_actions

SAMPLINGS = ("random", "round_robin")
EXAMPLE = ("coordination/distinct_choice", "coordination/unrepeated_choice")

Entry = str | Mapping[str, Any]


def make_multitask(
    task: str,
    *,
    tasks: Sequence[Entry] = EXAMPLE,
    pad_to: Sequence[Entry] = (),
    sampling: str = "random",
    task_ids: bool = False,
    render_mode: str | None = None,
) -> "Mixture":
    """Make a mixture of tasks.

    Args:
        task: "mixture".
        tasks: The tasks to play: environment names, or mappings {name: ..., env_config: {...}, weight: ...}. A task of
            weight 2 is drawn twice as often as one of weight 1, the default; one of weight 0 is never played, but keeps
            its task id.
        pad_to: Tasks in the same format that are never played, but whose shapes are padded for, so that the policy can
            later be trained on them.
        sampling: "random" draws each episode's task; "round_robin" cycles through the tasks from a random first one.
        task_ids: Whether observations end with a one-hot task id over `tasks` and `pad_to`.
        render_mode: "rgb_array" or None, for all tasks.

    Raises:
        ValueError: A value is invalid, or the tasks cannot be mixed.
    """
    check_choice("sampling", sampling, SAMPLINGS)
    check_options(make_multitask, locals())
    entries = [_check_entry(entry, "tasks") for entry in _to_list("tasks", tasks)]
    unplayed = [_check_entry(entry, "pad_to") for entry in _to_list("pad_to", pad_to)]
    weights = np.array([entry.get("weight", 1.0) for entry in entries])
    if not weights.any():
        raise ValueError("tasks: all weights are 0. Give at least one task a weight above 0.")
    if sampling == "round_robin" and len({*weights[weights > 0]}) > 1:
        raise ValueError(
            "sampling='round_robin' plays all tasks equally often: leave out the weights, or set sampling='random'."
        )
    labels = _make_labels([*entries, *unplayed])
    teams = [_make_team(entry, label, render_mode) for entry, label in zip([*entries, *unplayed], labels, strict=True)]
    return Mixture(teams, weights / weights.sum(), sampling, task_ids, render_mode)


def _to_list(option: str, entries: Any) -> list[Any]:
    if isinstance(entries, str | Mapping) or not isinstance(entries, Iterable) or (not entries and option == "tasks"):
        raise ValueError(f"{option}={entries!r} is not a list of tasks. Give a list such as ['smax/3m', 'smax/8m'].")
    return list(entries)


def _check_entry(entry: Any, option: str) -> Mapping[str, Any]:
    """Check one entry of `tasks` or `pad_to` and return it as a mapping."""
    if isinstance(entry, str):
        return {"name": entry}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise ValueError(f"{option}: {entry!r} has no task name. Give a name, or {{name: ..., env_config: {{...}}}}.")
    check_names(f"an entry of {option}", entry, ("name", "env_config", "weight"))
    if not isinstance(entry.get("env_config", {}), Mapping):
        raise ValueError(f"{option}: env_config={entry['env_config']!r} of {entry['name']} is not a mapping.")
    check_number(f"{option}: weight", entry.get("weight", 1.0), 0, whole=False)
    return entry


def _make_labels(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Make a unique label for each task: its name, with its options if the name occurs several times."""
    names = [entry["name"] for entry in entries]
    labels = []
    for entry, name in zip(entries, names, strict=True):
        options = ", ".join(f"{key}={value}" for key, value in entry.get("env_config", {}).items())
        labels.append(f"{name}({options})" if options and names.count(name) > 1 else name)
    duplicates = [label for label in labels if labels.count(label) > 1]
    if duplicates:
        raise ValueError(f"tasks: {duplicates[0]} is given twice. Give it once, with a weight.")
    return labels


def _make_team(entry: Mapping[str, Any], label: str, render_mode: str | None) -> JointEnv:
    from rllib_seqmarl.envs.catalog import make_joint_env  # circular import: the catalog lists this suite

    options = dict(entry.get("env_config", {}))
    if render_mode is not None:
        options.setdefault("render_mode", render_mode)
    joint = make_joint_env(entry["name"], options, agent_ids=False, name=label)
    if joint.layout.image_shape is not None:
        raise ValueError(f"tasks: {label} has image observations, which cannot be padded to other tasks' observations.")
    return joint


class Mixture(BaseParallelEnv):
    """Tasks with the same kind of actions, padded to common shapes.

    An observation consists of the task's own, zero padding, and the task id if enabled. For discrete actions, the mask
    only allows those that the task has and allows. Continuous actions are in -1..1, scaled linearly to the task's own
    bounds; excess dimensions are ignored.

    The infos of an episode's last step contain the name of its `task`. Each episode's seed is drawn from the mixture's
    own random stream, so that `reset(seed)` determines all following episodes.

    Args:
        teams: The joint environments of all tasks, named by their labels, with one row per agent.
        probabilities: Probabilities of the first tasks; the others are only padded for.
        sampling, task_ids, render_mode: See :func:`make_multitask`.
    """

    def __init__(
        self,
        teams: Sequence[JointEnv],
        probabilities: np.ndarray,
        sampling: str,
        task_ids: bool,
        render_mode: str | None,
    ):
        layouts = [team.layout for team in teams]
        size = max(layout.obs_dim for layout in layouts)
        ids = np.eye(len(teams)) if task_ids else np.zeros((len(teams), 0))
        self._actions = make_common_actions([(team.name, team.layout) for team in teams])
        agents = [f"agent_{i}" for i in range(max(layout.n_agents for layout in layouts))]
        observation_space = spaces.Box(-np.inf, np.inf, (size + ids.shape[1],), np.float32)
        super().__init__(
            agents, [observation_space] * len(agents), [self._actions.space() for _ in agents], render_mode
        )
        self.metadata = {"name": "multitask", "render_modes": ["rgb_array"], "render_fps": 10}
        self.teams = tuple(teams)
        self.probabilities = probabilities
        self.played = np.flatnonzero(probabilities)  # indices of tasks that can be played
        self.sampling = sampling
        # Observation templates of each task, (n, entries): zeros and the task id.
        self._templates = [
            np.tile(np.r_[np.zeros(size), task_id].astype(np.float32), (layout.n_agents, 1))
            for layout, task_id in zip(layouts, ids, strict=True)
        ]
        self._rows = {agent: row for row, agent in enumerate(self.possible_agents)}
        self._rng = np.random.default_rng()
        self._turn: int | None = None
        self._current = int(self.played[0])

    @property
    def team(self) -> JointEnv:
        """The current task."""
        return self.teams[self._current]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        if seed is not None:
            self._rng, self._turn = np.random.default_rng(seed), None
        self._current = self._choose_task()
        arrays, _ = self.team.reset(seed=int(self._rng.integers(2**31)), options=options)
        self.agents = self.possible_agents[: self.team.layout.n_agents]
        return self._split_by_agent(arrays, {})

    def _choose_task(self) -> int:
        """Return the index of the next episode's task."""
        if self.sampling == "random":
            return int(self._rng.choice(len(self.probabilities), p=self.probabilities))
        turn = self._rng.integers(len(self.played)) if self._turn is None else self._turn + 1
        self._turn = int(turn % len(self.played))
        return int(self.played[self._turn])

    def step(self, actions: Mapping[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        agents, rows = self.agents, [self._rows[agent] for agent in self.agents]
        joint_action = self._actions.to_joint_action(self._current, rows, [actions[agent] for agent in agents])
        arrays, _, terminated, truncated, joint_info = self.team.step(joint_action)
        info = {TASK_KEY: self.team.name} if terminated or truncated else {}
        if "win" in joint_info:
            info["win"] = joint_info["win"]
        observations, infos = self._split_by_agent(arrays, info)
        rewards = joint_info["agent_rewards"].tolist()
        ended = joint_info.get("agent_terminateds")
        died = [agent for agent, row in zip(agents, rows, strict=True) if ended is not None and ended[row]]
        self.agents = [agent for agent in agents if not (terminated or truncated or agent in died)]
        return (
            observations,
            {agent: rewards[row] for agent, row in zip(agents, rows, strict=True)},
            {agent: terminated or agent in died for agent in agents},
            {agent: truncated and agent not in died for agent in agents},
            infos,
        )

    def _split_by_agent(self, arrays: Arrays, info: dict[str, Any]) -> tuple[dict, dict]:
        """Return padded observations and infos of the current agents."""
        padded = self._templates[self._current].copy()
        padded[:, : self.team.layout.obs_dim] = arrays[OBSERVATIONS]
        alive = arrays[ALIVE].tolist()
        masks = self._actions.pad_masks(self._current, arrays.get(ACTION_MASK))
        observations, infos = {}, {}
        for agent in self.agents:
            row = self._rows[agent]
            observations[agent] = padded[row]
            infos[agent] = agent_info = {**info, ALIVE_KEY: bool(alive[row])}
            if masks is not None:
                agent_info[MASK_KEY] = masks[row]
        return observations, infos

    def state(self) -> np.ndarray:
        """Return the task's global state, zero-padded to the longest one.

        Raises:
            NotImplementedError: A task has no global state.
        """
        try:
            states = [np.ravel(team.env.state()) for team in (self.team, *self.teams)]
        except AttributeError:
            raise NotImplementedError("some of the tasks have no global state") from None
        padded = np.zeros(max(map(len, states)), np.float32)
        padded[: len(states[0])] = states[0]
        return padded

    def render(self) -> Any:
        return self.team.render()

    def close(self) -> None:
        for team in self.teams:
            team.close()


SUITE = Suite(
    name="multitask",
    tasks={"mixture": "Each episode plays one of the tasks listed in `tasks`, padded to the largest."},
    make=make_multitask,
)
