"""Jumanji's environments as simulators of one team: dynamics, observations and wins."""

from typing import Any

import numpy as np

from rllib_seqmarl.envs.batched_simulator import BatchObservation
from rllib_seqmarl.envs.suites.jax_batch import NEVER, JaxSimulator, State, import_jax


class JumanjiSimulator(JaxSimulator):
    """A Jumanji environment, made with the time limit NEVER.

    Its own ends are terminations; `time_limit` truncates.
    """

    def __init__(self, env: Any, time_limit: int):
        self.env = env
        self.time_limit = time_limit
        self.agents = tuple(f"agent_{i}" for i in range(env.num_agents))
        self.num_choices = int(env.action_spec.num_values[0])

    def reset(self, key: Any) -> State:
        state, timestep = self.env.reset(key)
        return state, timestep.observation

    def step(self, state: State, actions: Any) -> tuple[State, Any, Any, Any, Any]:
        jnp = import_jax().numpy
        next_state, timestep = self.env.step(state[0], actions)
        terminated = timestep.last()
        truncated = ~terminated & (next_state.step_count >= self.time_limit)
        rewards = jnp.broadcast_to(timestep.reward, len(self.agents)).astype(jnp.float32)
        return (next_state, timestep.observation), rewards, terminated, truncated, self.compute_win(next_state)

    def observe(self, state: State) -> BatchObservation:
        jnp = import_jax().numpy
        observation = state[1]
        agent_obs, global_state = self.split_observation(observation)
        return BatchObservation(
            observations=agent_obs.reshape(len(self.agents), -1).astype(jnp.float32),
            alive=jnp.ones(len(self.agents), bool),
            action_mask=observation.action_mask,
            state=None if global_state is None else global_state.reshape(-1).astype(jnp.float32),
        )

    def render(self, state: State) -> np.ndarray:
        return np.ascontiguousarray(self.env.render(state[0])[:, :, :3])

    def compute_win(self, state: Any) -> Any:
        """Return 1 if the team has won, else 0; None if the task cannot be won."""
        return None

    def split_observation(self, observation: Any) -> tuple[Any, Any]:
        """Return the agents' observations, (n, ...), and the global state; None if it is their concatenation."""
        return observation.agents_view, None


class Warehouse(JumanjiSimulator):
    """See `make_rware_batch`."""

    state_is_joint_obs = True

    def __init__(self, time_limit: int, **sizes: Any):
        import_jax()
        from jumanji.environments.routing.robot_warehouse import RobotWarehouse
        from jumanji.environments.routing.robot_warehouse.generator import RandomGenerator
        from jumanji.environments.routing.robot_warehouse.viewer import RobotWarehouseViewer

        generator = RandomGenerator(column_height=8, **sizes)
        viewer = RobotWarehouseViewer(generator.grid_size, generator.goals, render_mode="rgb_array")
        super().__init__(RobotWarehouse(generator, NEVER, viewer), time_limit)
        self.obs_size = int(self.env.num_obs_features)


class Foraging(JumanjiSimulator):
    """See `make_lbf_batch`."""

    state_is_joint_obs = True

    def __init__(self, time_limit: int, penalty: float, normalize_reward: bool, **sizes: Any):
        import_jax()
        from jumanji.environments.routing.lbf import LevelBasedForaging
        from jumanji.environments.routing.lbf.generator import RandomGenerator
        from jumanji.environments.routing.lbf.viewer import LevelBasedForagingViewer

        viewer = LevelBasedForagingViewer(sizes["grid_size"], render_mode="rgb_array")
        env = LevelBasedForaging(
            RandomGenerator(**sizes), viewer, NEVER, normalize_reward=normalize_reward, penalty=penalty
        )
        super().__init__(env, time_limit)
        self.obs_size = 3 * (env.num_agents + env.num_food)

    def compute_win(self, state: Any) -> Any:
        return state.food_items.eaten.all().astype(np.float32)


class Connecting(JumanjiSimulator):
    """See `make_connector_batch`."""

    def __init__(
        self, time_limit: int, connected_reward: float, timestep_reward: float, grid_size: int, num_agents: int
    ):
        import_jax()
        from jumanji.environments.routing.connector import Connector
        from jumanji.environments.routing.connector.generator import RandomWalkGenerator
        from jumanji.environments.routing.connector.reward import DenseRewardFn
        from jumanji.environments.routing.connector.viewer import ConnectorViewer

        viewer = ConnectorViewer("Connector", num_agents, render_mode="rgb_array")
        rewards = DenseRewardFn(connected_reward, timestep_reward)
        env = Connector(RandomWalkGenerator(grid_size, num_agents), rewards, NEVER, viewer)
        super().__init__(env, time_limit)
        self.obs_size = 5 * grid_size**2
        self.state_dim = 3 * grid_size**2

    def compute_win(self, state: Any) -> Any:
        return state.agents.connected.all().astype(np.float32)

    def split_observation(self, observation: Any) -> tuple[Any, Any]:
        jnp = import_jax().numpy
        n = len(self.agents)
        # A cell is 0, or 1 + 3 a + (0: path, 1: head, 2: target) for agent a.
        taken, agent, kind = observation.grid > 0, (observation.grid - 1) // 3, (observation.grid - 1) % 3  # (g, g)
        path, head, target = ((taken & (kind == one)) for one in range(3))
        nth = (agent - jnp.arange(n)[:, None, None]) % n + 1  # (n, g, g), counted from the observer, which is 1
        agent_obs = jnp.stack(
            [
                head * nth / n,
                target * nth / n,
                jnp.broadcast_to(path, nth.shape),
                head & (nth == 1),
                target & (nth == 1),
            ],
            axis=-1,
        )  # (n, g, g, 5)
        return agent_obs, agent_obs[0, :, :, :3]


class Cleaning(JumanjiSimulator):
    """See `make_cleaner_batch`."""

    def __init__(self, time_limit: int, penalty: float, num_rows: int, num_cols: int, num_agents: int):
        import_jax()
        from jumanji.environments.routing.cleaner import Cleaner
        from jumanji.environments.routing.cleaner.constants import DIRTY, WALL
        from jumanji.environments.routing.cleaner.generator import RandomGenerator
        from jumanji.environments.routing.cleaner.viewer import CleanerViewer

        viewer = CleanerViewer("Cleaner", render_mode="rgb_array")
        super().__init__(Cleaner(RandomGenerator(num_rows, num_cols, num_agents), NEVER, penalty, viewer), time_limit)
        self.dirty, self.wall = DIRTY, WALL
        self.obs_size = 4 * num_rows * num_cols
        self.state_dim = 3 * num_rows * num_cols

    def compute_win(self, state: Any) -> Any:
        return (state.grid != self.dirty).all().astype(np.float32)

    def split_observation(self, observation: Any) -> tuple[Any, Any]:
        jnp = import_jax().numpy
        n = len(self.agents)
        rows, cols = observation.agents_locations.T
        own = jnp.zeros((n, *observation.grid.shape), bool).at[jnp.arange(n), rows, cols].set(True)  # (n, r, c)
        shared = jnp.stack(
            [observation.grid == self.dirty, observation.grid == self.wall, own.sum(axis=0)], axis=-1
        )  # (r, c, 3)
        repeated = jnp.broadcast_to(shared, (n, *shared.shape))
        return jnp.concatenate([repeated, own[..., None]], axis=-1), shared  # (n, r, c, 4)
