"""Small tasks in which agents provably fail if they decide independently, or without memory.

In the first two, n agents must take n different choices at every step. If agents know their own numbers, the fixed
assignment "agent i takes i" would suffice, so each task adds a condition under which independent policies
*provably* fail:

**DistinctChoice** requires the first agent to take a uniformly random choice that only it observes.

    Policies bounded: decentralised ones. Each agent samples its action independently of the others, from a
    distribution that may depend on its number and its observation history. (The bound even holds if agents
    2..n sample jointly, as long as they do not observe what the first one observes.)
    Bound: with k choices, a step succeeds with probability at most (k - n + 1) / k, so 1 / n where k = n.
    Proof: let A be the set of choices of agents 2..n. Success requires |A| = n - 1 and the secret s not in A.
    These agents do not observe s, so A is independent of it, and for any such A, s is not in A with
    probability (k - n + 1) / k. QED. The bound is attained: the first agent takes s, agent i > 1 always takes
    choice i.
    A sequential team attains 1: each agent takes the lowest choice that its predecessors have left free.

**UnrepeatedChoice** requires the joint action to differ from that of the previous step. The observation is
constant, so sharing observations does not help: only *sampling* the actions jointly does.

    Policies bounded: memoryless product policies. Agent i samples from p_i at each step, independently of the
    others and of the past.
    Bound: a step succeeds with probability at most 1/4, for every n >= 2 (here k = n).
    Proof: let a and b be the joint actions of two consecutive steps, independent samples of p_1 x ... x p_n,
    and let P be the probability that a is a permutation. Success requires a and b to be permutations, so its
    probability is at most P^2. On success, let i be the first agent whose actions differ in a and b, and swap
    a_i and b_i. The new pair has the same probability, the swap is its own inverse, and neither new action is
    a permutation: in a, some other agent took b_i; in b, some other took a_i. So the probability of success
    is at most that of two failures, (1 - P)^2. Now min(P, 1 - P)^2 <= 1/4. QED. (Numerical search finds at
    most 1/8.)
    A sequential team that samples uniformly from the n! permutations attains 1 - 1/n!. It must *sample*: the
    greedy policy repeats one permutation and fails, so evaluate with exploration on.

**Recall** shows each agent one of k cues in the first step only, to be repeated in the last.

    Policies bounded: memoryless ones, joint or independent.
    Bound: an agent is right with probability at most 1/k, and all agents with probability at most k^-n.
    Proof: the cues are uniform and independent of each other, and of what is observed in the last step. QED.
    A policy with memory attains 1.
"""

import inspect
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from rllib_seqmarl.envs.options import check_names, check_options
from rllib_seqmarl.envs.parallel_env import BaseParallelEnv
from rllib_seqmarl.envs.suite import Suite


class _ChoiceTask(BaseParallelEnv):
    """n agents with k choices each and a shared reward of 1 for each successful step.

    Episodes are truncated after `max_cycles` steps. The infos of the last step contain "success", the success rate over
    the steps that can succeed.
    """

    first_success = 1  # the first step of an episode that can succeed
    limits: dict[str, int] = {}  # least values of options, other than by default

    def __init__(self, n_agents: int, n_choices: int, max_cycles: int, render_mode: str | None, observation: int):
        limits = {"n_agents": 2, "n_choices": n_agents, "max_cycles": self.first_success, **self.limits}
        check_options(_ChoiceTask, locals(), limits)
        self.n_agents, self.n_choices, self.max_cycles = n_agents, n_choices, max_cycles
        agents = [f"agent_{i}" for i in range(n_agents)]
        observation_space = spaces.Box(0.0, 1.0, (observation,), np.float32)
        action_spaces: list[Any] = [
            spaces.Discrete(n_choices) for _ in agents
        ]  # one per agent, for independent sampling
        super().__init__(agents, [observation_space] * n_agents, action_spaces, render_mode)
        self._rng = np.random.default_rng()
        self._cycle = self._successes = 0
        self._taken: tuple[int, ...] = ()
        self._succeeded = False

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents = self.possible_agents[:]
        self._cycle = self._successes = 0
        self._taken, self._succeeded = (), False
        self._begin_step()
        return self._observe(), {agent: self._info() for agent in self.agents}

    def step(self, actions: dict[str, int]) -> tuple[dict, dict, dict, dict, dict]:
        agents = self.agents
        taken = tuple(int(actions[agent]) for agent in agents)
        rewards = dict(zip(agents, self._rewards(taken), strict=True))
        self._succeeded = all(reward == 1.0 for reward in rewards.values())
        self._taken = taken
        self._cycle += 1
        self._successes += self._succeeded
        self._begin_step()
        over = self._cycle == self.max_cycles
        info = {"success": self._successes / (self.max_cycles - self.first_success + 1)} if over else {}
        return self.end_step(self._observe(), rewards, False, over, {agent: self._info() | info for agent in agents})

    def render(self) -> np.ndarray | None:
        """Render the last step, uint8 (height, width, 3): one row per agent, one column per choice."""
        if self.render_mode is None:
            return None
        cell, gap = 24, 2
        background = (214, 239, 214) if self._succeeded else (243, 219, 219)
        picture = np.empty((self.n_agents * cell + gap, self.n_choices * cell + gap, 3), np.uint8)
        picture[:] = background
        for row in range(self.n_agents):
            for column in range(self.n_choices):
                colour = (40, 80, 150) if self._taken and self._taken[row] == column else (255, 255, 255)
                top, left = row * cell + gap, column * cell + gap
                picture[top : top + cell - gap, left : left + cell - gap] = colour
        return picture

    # Hooks for the tasks.

    def _begin_step(self) -> None:
        """Draw the random variables of the next step."""

    def _info(self) -> dict[str, Any]:
        """Return each agent's info on the next step."""
        return {}

    def _rewards(self, taken: tuple[int, ...]) -> list[float]:
        """Return each agent's reward for the choices; the step succeeds if all are 1."""
        succeeded = len(set(taken)) == self.n_agents and self._accepts(taken)
        return [float(succeeded)] * self.n_agents

    def _accepts(self, taken: tuple[int, ...]) -> bool:
        """Return whether these choices, which are all different, succeed."""
        raise NotImplementedError

    def _observe(self) -> dict[str, np.ndarray]:
        """Return each agent's observation."""
        raise NotImplementedError


class DistinctChoice(_ChoiceTask):
    """Agents must take different choices, the first one a secret choice that only it observes.

    Observations, float32 (n_choices,): the first agent's is the one-hot secret, redrawn at each step; all others
    are zeros. The optimal return is `max_cycles`.

    Args:
        n_agents: Number of agents n, >= 2.
        n_choices: Number of choices k, >= n; n by default.
        max_cycles: Steps of an episode.
        render_mode: "rgb_array" or None.
    """

    metadata = {"name": "distinct_choice", "render_modes": ["rgb_array"], "render_fps": 2}

    def __init__(
        self, n_agents: int = 5, n_choices: int | None = None, max_cycles: int = 10, render_mode: str | None = None
    ):
        n_choices = n_agents if n_choices is None else n_choices
        super().__init__(n_agents, n_choices, max_cycles, render_mode, observation=n_choices)
        self._secret = 0

    def _begin_step(self) -> None:
        self._secret = int(self._rng.integers(self.n_choices))

    def _accepts(self, taken: tuple[int, ...]) -> bool:
        return taken[0] == self._secret

    def _observe(self) -> dict[str, np.ndarray]:
        observations = np.zeros((self.n_agents, self.n_choices), np.float32)
        observations[0, self._secret] = 1.0
        return dict(zip(self.agents, observations, strict=True))


class UnrepeatedChoice(_ChoiceTask):
    """n agents must take n different choices, and never repeat the previous joint action.

    The observation is the constant 1, float32 (1,). The first step of an episode has no previous action and does
    not succeed, so the best memoryless team's return is `(max_cycles - 1) * (1 - 1/n!)`.

    Args:
        n_agents: Number of agents n, >= 2, which is also the number of choices.
        max_cycles: Steps of an episode, >= 2.
        render_mode: "rgb_array" or None.
    """

    metadata = {"name": "unrepeated_choice", "render_modes": ["rgb_array"], "render_fps": 2}
    first_success = 2

    def __init__(self, n_agents: int = 5, max_cycles: int = 11, render_mode: str | None = None):
        super().__init__(n_agents, n_agents, max_cycles, render_mode, observation=1)

    def _accepts(self, taken: tuple[int, ...]) -> bool:
        return bool(self._taken) and taken != self._taken

    def _observe(self) -> dict[str, np.ndarray]:
        return {agent: np.ones(1, np.float32) for agent in self.agents}


class Recall(_ChoiceTask):
    """Each agent sees a cue in the first step of an episode, and must repeat it in the last one.

    Observations, float32 (n_choices + 1,): the one-hot cue in the first step, else zeros; and 1 in the last step.
    Before that, an action mask allows choice 0 only. An agent's reward is 1 if its last choice is its cue; all other
    rewards are 0. "success" means that all agents are right.

    Args:
        n_agents: Number of agents n.
        n_choices: Number of choices and cues k, >= 2.
        max_cycles: Steps of an episode, >= 2.
        render_mode: "rgb_array" or None.
    """

    metadata = {"name": "recall", "render_modes": ["rgb_array"], "render_fps": 2}
    limits = {"n_agents": 1, "n_choices": 2, "max_cycles": 2}

    def __init__(self, n_agents: int = 2, n_choices: int = 4, max_cycles: int = 10, render_mode: str | None = None):
        self.first_success = max_cycles
        super().__init__(n_agents, n_choices, max_cycles, render_mode, observation=n_choices + 1)
        self._cues: tuple[int, ...] = ()

    def _begin_step(self) -> None:
        if self._cycle == 0:
            self._cues = tuple(self._rng.integers(self.n_choices, size=self.n_agents).tolist())

    @property
    def _is_last(self) -> bool:
        return self._cycle >= self.max_cycles - 1

    def _info(self) -> dict[str, Any]:
        return {"action_mask": np.array([True] + [self._is_last] * (self.n_choices - 1), np.int8)}

    def _rewards(self, taken: tuple[int, ...]) -> list[float]:
        return [float(self._is_last and choice == cue) for choice, cue in zip(taken, self._cues, strict=True)]

    def _observe(self) -> dict[str, np.ndarray]:
        observations = np.zeros((self.n_agents, self.n_choices + 1), np.float32)
        if self._cycle == 0:
            observations[range(self.n_agents), self._cues] = 1.0
        observations[:, -1] = self._is_last
        return dict(zip(self.agents, observations, strict=True))


_TASKS: dict[str, Any] = {"distinct_choice": DistinctChoice, "unrepeated_choice": UnrepeatedChoice, "recall": Recall}


def make_coordination(task: str, **options: Any) -> ParallelEnv:
    """Make one of the tasks.

    Raises:
        ValueError: An option is unknown or out of range.
    """
    check_names(f"coordination/{task}", options, inspect.signature(_TASKS[task]).parameters)
    return _TASKS[task](**options)


SUITE = Suite(
    name="coordination",
    tasks={
        "distinct_choice": "Agents choose differently, the first one a choice that only it observes.",
        "unrepeated_choice": "Agents choose differently and never repeat the previous joint action.",
        "recall": "Agents see a cue in the first step, to be repeated in the last one.",
    },
    make=make_coordination,
)
