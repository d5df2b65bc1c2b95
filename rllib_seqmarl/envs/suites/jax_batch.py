"""Simulators written in JAX: all copies of a team are stepped in one compiled call."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult
from rllib_seqmarl.envs.options import check_choice, check_number

NEVER = 2**30  # disables a simulator's own time limit; the adapter counts steps to tell truncations from terminations
RESET_CHUNK_SIZE = 8  # copies reset at a time: one by one is slow for many, all at once is wasteful for a few
State = Any  # pytree of jax arrays


def import_jax() -> Any:
    """Import jax, with GPU memory preallocation disabled unless the user has configured it."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    return jax


class JaxSimulator(ABC):
    """One team's task as pure functions of jax arrays, without a batch axis. Compiled once per instance.

    Attributes:
        agents: Agent names, in row order.
        obs_size, num_choices: Observation size and number of actions of every agent.
        state_dim: Size of the global state returned by `observe`.
        state_is_joint_obs: Whether the global state is the concatenation of all agents' observations. `observe` then
            returns no state.
    """

    agents: tuple[str, ...]
    obs_size: int
    num_choices: int
    state_dim: int = 0
    state_is_joint_obs: bool = False

    @abstractmethod
    def reset(self, key: Any) -> State:
        """Return an episode's initial state. `key` seeds all randomness of the episode."""

    @abstractmethod
    def step(self, state: State, actions: Any) -> tuple[State, Any, Any, Any, Any]:
        """Return the next state, rewards (n,), terminated, truncated and wins (None if the task cannot be won)."""

    @abstractmethod
    def observe(self, state: State) -> BatchObservation:
        """Return the team's observation, without a batch axis."""

    @abstractmethod
    def render(self, state: State) -> np.ndarray:
        """Render an image, uint8 (height, width, 3)."""

    @cached_property
    def compiled(self) -> Any:
        """(keys, states, actions, reset_mask) -> (keys, states), StepResult, for a batch of any size."""
        jax = import_jax()
        jnp = jax.numpy

        def step(carry: tuple[Any, State], actions: Any, reset_mask: Any) -> tuple[tuple[Any, State], StepResult]:
            keys, states = carry
            next_states, *outputs = jax.vmap(self.step)(states, actions)
            # Weak types would change the signature and trigger a recompilation at the next step.
            states = jax.tree.map(lambda new, old: new.astype(old.dtype), next_states, states)
            # Outputs are (B,) or, the rewards, (B, n); transposed, the mask (B,) broadcasts.
            outputs = jax.tree.map(lambda leaf: jnp.where(reset_mask, jnp.zeros_like(leaf.T), leaf.T).T, outputs)

            # A reset costs more than a step, so only the copies in `reset_mask` are reset, in chunks.
            num_envs = len(reset_mask)
            size = min(num_envs, RESET_CHUNK_SIZE)
            to_reset = jnp.nonzero(reset_mask, size=-(-num_envs // size) * size, fill_value=num_envs)[0]

            def reset_chunk(index: Any, carry: tuple[Any, State]) -> tuple[Any, State]:
                rows = jax.lax.dynamic_slice_in_dim(to_reset, index * size, size)
                next_keys, reset_keys = jnp.unstack(jax.vmap(jax.random.split)(carry[0][rows]), axis=1)
                chunk = next_keys, jax.vmap(self.reset)(reset_keys)
                return jax.tree.map(lambda old, new: old.at[rows].set(new, mode="drop"), carry, chunk)

            carry = jax.lax.fori_loop(0, -(-reset_mask.sum() // size), reset_chunk, (keys, states))
            rewards, terminated, truncated, wins = outputs
            return carry, StepResult(jax.vmap(self.observe)(carry[1]), rewards, terminated, truncated, wins)

        return jax.jit(step, donate_argnums=0)


@lru_cache(maxsize=32)
def make_simulator(kind: type[JaxSimulator], **options: Any) -> JaxSimulator:
    """Make a simulator. Those with equal options in a process are one object, so they are compiled once."""
    return kind(**options)


class JaxBatchedSimulator(BatchedSimulator):
    """Copies of a simulator. With the same seed and actions, a copy plays the same episodes in a batch of any size.

    The returned arrays are read-only and never modified later.
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
        self.state_dim = n * size if simulator.state_is_joint_obs else simulator.state_dim
        self._carry: tuple[Any, State] | None = None  # each copy's key for future episodes, and its state

    def reset(self, seeds: Sequence[int] | None = None) -> BatchObservation:
        jax = import_jax()
        if seeds is not None or self._carry is None:
            entropies: Sequence[int | None] = [None] * self.num_envs if seeds is None else seeds
            words = [np.random.SeedSequence(entropy).generate_state(1)[0] for entropy in entropies]
            keys = jax.vmap(jax.random.PRNGKey)(np.array(words))
            if self._carry is None:  # the step below needs a state to start from, although the reset replaces it
                states = jax.eval_shape(jax.vmap(self.simulator.reset), keys)
                self._carry = keys, jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), states)
            self._carry = keys, self._carry[1]
        actions = np.zeros((self.num_envs, len(self.agents)), np.int64)
        return self.step(actions, np.ones(self.num_envs, np.bool_)).observation

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        self._carry, result = self.simulator.compiled(self._carry, actions, reset_mask)
        result = import_jax().device_get(result)
        if self.simulator.state_is_joint_obs:
            obs = result.observation
            result = result._replace(observation=obs._replace(state=obs.observations.reshape(self.num_envs, -1)))
        return result

    def render(self) -> np.ndarray:
        assert self._carry is not None
        return self.simulator.render(import_jax().tree.map(lambda leaf: leaf[0], self._carry[1]))
