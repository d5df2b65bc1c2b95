"""Simulators written in JAX: all copies of a team move in one compiled call."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult
from rllib_seqmarl.envs.options import check_choice, check_number

NEVER = 2**30  # A simulator's own time limit, put off: the adapter counts the steps, and so knows why an episode ended.
STARTED_TOGETHER = 8  # copies; all at once would cost as much for one of them as for all, one by one is slow for many
State = Any  # a tree of jax arrays


def import_jax() -> Any:
    """The package; it then takes memory of a GPU as it needs it, not all at once, unless the user decides otherwise."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    return jax


class JaxSimulator(ABC):
    """One team's task as pure functions of jax arrays, without a batch axis. They are compiled once per instance.

    Attributes:
        agents: Names, in the order of the rows.
        obs_size, num_choices: Of every agent.
        state_dim: Size of the global state that `look` gives.
        state_is_joint_view: The global state is all agents' observations, one after the other; `look` gives none.
    """

    agents: tuple[str, ...]
    obs_size: int
    num_choices: int
    state_dim: int = 0
    state_is_joint_view: bool = False

    @abstractmethod
    def start(self, key: Any) -> State:
        """The first state of an episode; all of the episode's randomness comes from `key`."""

    @abstractmethod
    def move(self, state: State, actions: Any) -> tuple[State, Any, Any, Any, Any]:
        """The next state; rewards (n,), terminated, truncated, and whether the team has won (None: it cannot)."""

    @abstractmethod
    def look(self, state: State) -> BatchObservation:
        """The team's observation, without a batch axis."""

    @abstractmethod
    def draw(self, state: State) -> np.ndarray:
        """A picture, uint8 (height, width, 3)."""

    @cached_property
    def compiled(self) -> Any:
        """(keys, states, actions, reset_mask) -> (keys, states), StepResult, for a batch of any size."""
        jax = import_jax()
        jnp = jax.numpy

        def step(carry: tuple[Any, State], actions: Any, reset_mask: Any) -> tuple[tuple[Any, State], StepResult]:
            keys, states = carry
            moved_states, *moved = jax.vmap(self.move)(states, actions)
            # A weak type would differ from the given state's, and the next step be compiled again.
            states = jax.tree.map(lambda new, old: new.astype(old.dtype), moved_states, states)
            moved = jax.tree.map(lambda part: jnp.where(_along(part, reset_mask), jnp.zeros_like(part), part), moved)

            # Starting costs more than moving, so only copies that begin are started, some at a time.
            num_envs = len(reset_mask)
            some = min(num_envs, STARTED_TOGETHER)
            waiting = jnp.nonzero(reset_mask, size=-(-num_envs // some) * some, fill_value=num_envs)[0]

            def start_some(turn: Any, carry: tuple[Any, State]) -> tuple[Any, State]:
                rows = jax.lax.dynamic_slice_in_dim(waiting, turn * some, some)
                kept, spent = jnp.unstack(jax.vmap(jax.random.split)(carry[0][rows]), axis=1)
                started = kept, jax.vmap(self.start)(spent)
                return jax.tree.map(lambda old, new: old.at[rows].set(new, mode="drop"), carry, started)

            carry = jax.lax.fori_loop(0, -(-reset_mask.sum() // some), start_some, (keys, states))
            rewards, terminated, truncated, wins = moved
            return carry, StepResult(jax.vmap(self.look)(carry[1]), rewards, terminated, truncated, wins)

        return jax.jit(step, donate_argnums=0)


def _along(part: Any, rows: Any) -> Any:
    """`rows` (B,), so shaped that it stands for whole rows of `part` (B, ...)."""
    return rows.reshape(-1, *[1] * (part.ndim - 1))


class JaxBatchedSimulator(BatchedSimulator):
    """Copies of a simulator. Copy i plays the same episodes in a batch of any size, given the same seed and actions.

    The arrays it returns are read-only and stay as they are.
    """

    metadata = {"render_modes": ["rgb_array"]}
    has_action_mask = True

    def __init__(self, simulator: JaxSimulator, num_envs: int, render_mode: str | None):
        check_number("num_envs", num_envs, 1)
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        self.simulator = simulator
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.agents = simulator.agents
        n, size = len(simulator.agents), simulator.obs_size
        self.observation_spaces = tuple(spaces.Box(-np.inf, np.inf, (size,), np.float32) for _ in range(n))
        self.action_spaces = tuple(spaces.Discrete(simulator.num_choices) for _ in range(n))
        self.state_dim = n * size if simulator.state_is_joint_view else simulator.state_dim
        self._carry: tuple[Any, State] | None = None  # each copy's key for the episodes to come, and its state

    def reset(self, seeds: Sequence[int] | None = None) -> BatchObservation:
        jax = import_jax()
        if seeds is not None or self._carry is None:
            given: Sequence[int | None] = [None] * self.num_envs if seeds is None else seeds
            words = [np.random.SeedSequence(seed).generate_state(1)[0] for seed in given]
            keys = jax.vmap(jax.random.PRNGKey)(np.array(words))
            if self._carry is None:  # There has to be some state to move from; all of it is then replaced.
                states = jax.eval_shape(jax.vmap(self.simulator.start), keys)
                self._carry = keys, jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), states)
            self._carry = keys, self._carry[1]
        actions = np.zeros((self.num_envs, len(self.agents)), np.int64)
        return self.step(actions, np.ones(self.num_envs, np.bool_)).observation

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        self._carry, moved = self.simulator.compiled(self._carry, actions, reset_mask)
        moved = import_jax().device_get(moved)
        if self.simulator.state_is_joint_view:
            seen = moved.observation
            moved = moved._replace(observation=seen._replace(state=seen.observations.reshape(self.num_envs, -1)))
        return moved

    def render(self) -> np.ndarray:
        assert self._carry is not None
        return self.simulator.draw(import_jax().tree.map(lambda leaf: leaf[0], self._carry[1]))
