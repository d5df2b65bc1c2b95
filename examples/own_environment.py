"""Use your own environment: write it as a PettingZoo ParallelEnv, check it, train on it, and act in it.

Couriers share a street of seven houses. Each has a parcel for one house, and no two may be in the same house at once. A
joint policy can avoid collisions, since each courier knows where its predecessors are about to go. Illegal moves (out
of the street) are masked, and a courier that has delivered its parcel leaves `agents` while the others continue.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from rllib_seqmarl import JointPolicy, MATConfig, check_joint_env

HOUSES = 7
LEFT, STAY, RIGHT = 0, 1, 2


class Couriers(ParallelEnv):
    metadata = {"name": "couriers", "render_modes": []}

    def __init__(self, n_couriers: int = 3, max_cycles: int = 20):
        self.max_cycles = max_cycles
        self.possible_agents = [f"courier_{i}" for i in range(n_couriers)]
        # One-hot position, one-hot destination, and the number of couriers in each house.
        self._observation_space = spaces.Box(0.0, n_couriers, (3 * HOUSES,), np.float32)
        self._action_spaces = {agent: spaces.Discrete(3) for agent in self.possible_agents}

    def observation_space(self, agent: str) -> spaces.Box:
        return self._observation_space

    def action_space(self, agent: str) -> spaces.Discrete:
        return self._action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        if seed is not None or not hasattr(self, "rng"):
            self.rng = np.random.default_rng(seed)
        self.agents = self.possible_agents[:]
        n = len(self.agents)
        self.place = dict(zip(self.agents, self.rng.permutation(HOUSES)[:n].tolist(), strict=True))
        self.goal = dict(zip(self.agents, self.rng.permutation(HOUSES)[:n].tolist(), strict=True))
        self.cycle = 0
        return self._observe(self.agents), self._infos(self.agents)

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        acting = self.agents
        self.cycle += 1
        for agent in acting:
            self.place[agent] += int(actions[agent]) - STAY
        places = [self.place[agent] for agent in acting]
        rewards, terminated = {}, {}
        for agent in acting:
            collides = places.count(self.place[agent]) > 1
            terminated[agent] = self.place[agent] == self.goal[agent] and not collides
            rewards[agent] = -1.0 if collides else 1.0 if terminated[agent] else -0.05
        truncated = dict.fromkeys(acting, self.cycle >= self.max_cycles)
        observations, infos = self._observe(acting), self._infos(acting)
        self.agents = [agent for agent in acting if not (terminated[agent] or truncated[agent])]
        return observations, rewards, terminated, truncated, infos

    def _observe(self, agents: list[str]) -> dict[str, np.ndarray]:
        houses = np.eye(HOUSES, dtype=np.float32)
        crowd = houses[[self.place[agent] for agent in agents]].sum(0)
        return {agent: np.concatenate([houses[self.place[agent]], houses[self.goal[agent]], crowd]) for agent in agents}

    def _infos(self, agents: list[str]) -> dict[str, dict]:
        return {
            agent: {"action_mask": np.array([self.place[agent] > 0, True, self.place[agent] < HOUSES - 1], np.int8)}
            for agent in agents
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=60)
    options = parser.parse_args()

    check_joint_env(Couriers)  # raises an error that names the violated rule, if any
    algo = MATConfig().environment(Couriers).training(train_batch_size_per_learner=800, lr=1e-3).build_algo()
    for iteration in range(options.iterations):
        result = algo.train()["env_runners"]
        if iteration % 10 == 0 or iteration == options.iterations - 1:
            print(
                f"iteration {iteration}: team return {result['episode_return_mean']:.2f}, "
                f"steps per episode {result['episode_len_mean']:.1f}"
            )
    with tempfile.TemporaryDirectory() as folder:
        algo.save_to_path(folder)
        policy = JointPolicy.from_checkpoint(folder)
    algo.stop()

    env = Couriers()
    observations, infos = env.reset(seed=0)
    while env.agents:
        masks = {agent: infos[agent]["action_mask"] for agent in env.agents}
        actions = policy.act({agent: observations[agent] for agent in env.agents}, masks)
        observations, _, _, _, infos = env.step(actions)
        print({agent: f"{env.place[agent]} -> {env.goal[agent]}" for agent in actions})


if __name__ == "__main__":
    main()
