"""The task and its multi-agent form."""

import torch

PARTS = [8, 3, 3, 3, 4, 5]  # actions of palm and fingers


class Box:
    def __init__(self, width):
        self.shape = (width,)


class Counters:
    """A hand observes the count, the step, its first and last action, and a random number as the object.

    The count is the sum of all first actions. The reward is the count. Below -2 a copy is done, above 2 it succeeds,
    and above 9 an error is raised.
    """

    num_hand_obs, num_obs = 4, 9

    def __init__(self, cfg, agent_index):
        self.num_envs, self.max_episode_length = cfg["env"]["numEnvs"], cfg["env"]["episodeLength"]
        self.agent_index = agent_index
        self.reset_buf = torch.ones(self.num_envs, dtype=torch.long)
        self.progress_buf = torch.zeros(self.num_envs, dtype=torch.long)
        self.count, self.draw, self.successes, self.rew_buf = (torch.zeros(self.num_envs) for _ in range(4))
        self.obs_buf = torch.zeros(self.num_envs, self.num_obs)

    def step(self, actions):
        reset_mask = self.reset_buf.nonzero().squeeze(-1)
        self.count[reset_mask], self.successes[reset_mask] = 0.0, 0.0
        self.draw[reset_mask] = torch.rand(len(reset_mask))
        self.progress_buf[reset_mask] = 0
        self.reset_buf[reset_mask] = 0
        self.count += actions[:, 0] + actions[:, 26]
        if (self.count > 9).any():
            raise RuntimeError("the stand-in has failed")
        self.progress_buf += 1
        for hand in range(2):
            own = actions[:, 26 * hand : 26 * hand + 26]
            hand_obs = (self.count, self.progress_buf / 100, own[:, 0], own[:, -1])
            self.obs_buf[:, 4 * hand : 4 * hand + 4] = torch.stack(hand_obs, dim=1)
        self.obs_buf[:, 8] = self.draw
        self.rew_buf[:] = self.count
        self.successes[self.count > 2] = 1.0
        self.reset_buf[self.count < -2] = 1
        self.reset_buf[self.progress_buf >= self.max_episode_length] = 1


class MultiAgentForm:
    """As published: observations (B, n, size), state (B, n, size), reward (B, n, 1), done (B, n)."""

    def __init__(self, task, rl_device):
        self.task, self.rl_device = task, rl_device
        self.num_observations = task.num_obs - task.num_hand_obs
        self.nums_share_observations = task.num_obs
        groups = task.agent_index[0] + task.agent_index[1]
        self.hand_of = [0] * len(task.agent_index[0]) + [1] * len(task.agent_index[1])
        self.action_space = tuple(Box(sum(PARTS[part] for part in group)) for group in groups)

    def step(self, actions):
        self.task.step(torch.clamp(torch.hstack(actions), -1.0, 1.0))
        state, n = torch.clamp(self.task.obs_buf, -5.0, 5.0), len(self.hand_of)
        hands = [torch.cat([state[:, 4 * hand : 4 * hand + 4], state[:, 8:]], dim=1) for hand in range(2)]
        observations = torch.stack([hands[hand] for hand in self.hand_of], dim=1)
        rewards = self.task.rew_buf[:, None, None].repeat(1, n, 1)
        dones = self.task.reset_buf[:, None].repeat(1, n)
        return observations, state[:, None].repeat(1, n, 1), rewards, dones, torch.zeros(n), None


def parse_task(args, cfg, cfg_train, sim_params, agent_index):
    assert (args.algo, args.task_type, args.headless) == ("mappo", "MultiAgent", True)
    assert sim_params == {"device": "cpu", "pipeline": "cpu"}
    task = Counters(cfg, agent_index)
    return task, MultiAgentForm(task, args.rl_device)
