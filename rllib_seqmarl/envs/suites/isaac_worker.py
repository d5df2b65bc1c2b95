"""Plays a task of Bi-DexHands in the old Python that Isaac Gym needs, for `dexhands_isaac` at the other end of a pipe.

Run as a script, `python isaac_worker.py FD SETTINGS`. It imports nothing of this package and keeps to the language of
Python 3.8. Over the pipe go bytes, since arrays pickled by one numpy cannot be read by another much older one.

First it tells the sizes, as JSON. Then it answers requests, each of three messages: a seed as text (empty for none),
which copies begin an episode, bool (B,), and actions, float32 (B, n, width). An answer is one message of float32:
observations (B, n, size), state (B, state_size), rewards (B,), done (B,), timed_out (B,), successes (B,).
"""

import json
import os
import sys
from multiprocessing.connection import Connection
from typing import Any


def main() -> None:
    pipe = Connection(int(sys.argv[1]))
    team, set_seed = make_team(json.loads(sys.argv[2]))
    import numpy as np
    import torch

    widths = [space.shape[0] for space in team.action_space]
    sizes = {
        "observation": team.num_observations,
        "state": team.nums_share_observations,
        "actions": widths,
        "episode_length": int(team.task.max_episode_length),
    }
    pipe.send_bytes(json.dumps(sizes).encode())
    while True:
        try:
            seed = pipe.recv_bytes()
        except EOFError:  # the other end has closed
            return
        if seed:
            set_seed(int(seed))
        reset_mask = np.frombuffer(pipe.recv_bytes(), np.bool_)
        joint = np.frombuffer(pipe.recv_bytes(), np.float32).reshape(len(reset_mask), len(widths), -1).copy()
        joint[reset_mask] = 0.0
        actions = torch.from_numpy(joint).to(team.rl_device)
        task = team.task
        # At the beginning of a step, a task restarts the copies that are marked as done. Marking exactly those that
        # are to begin also undoes the mark of one that was done as soon as it had begun: it is evaluated again.
        task.reset_buf[:] = torch.tensor(reset_mask, dtype=task.reset_buf.dtype)
        seen, state, rewards, done, _, _ = team.step([actions[:, row, :width] for row, width in enumerate(widths)])
        timed_out = task.progress_buf >= task.max_episode_length
        answer = (seen, state[:, 0], rewards[:, 0], done[:, 0], timed_out, task.successes)
        flat = [part.detach().cpu().to(torch.float32).flatten() for part in answer]
        pipe.send_bytes(torch.cat(flat).numpy().tobytes())


def make_team(settings: Any) -> Any:
    """A task in its multi-agent form, and what seeds it.

    Args:
        settings: The task's name; which of a hand's parts are whose ("agents", in Bi-DexHands' notation); and further
            command line arguments, from which Bi-DexHands takes its options.
    """
    import bidexhands  # imports Isaac Gym, which has to come before torch

    os.chdir(os.path.dirname(os.path.abspath(bidexhands.__file__)))  # it looks for settings and assets from there
    from bidexhands.utils.config import get_args, load_cfg, parse_sim_params, set_seed
    from bidexhands.utils.parse_task import parse_task
    from bidexhands.utils.process_marl import get_AgentIndex

    sys.argv = [sys.argv[0], *settings["arguments"]]
    args = get_args(task_name=settings["task"], algo="mappo")
    args.task_type = "MultiAgent"
    cfg, cfg_train, _ = load_cfg(args)
    cfg["env"]["handAgentIndex"] = settings["agents"]
    _, team = parse_task(args, cfg, cfg_train, parse_sim_params(args, cfg, cfg_train), get_AgentIndex(cfg))
    return team, set_seed


if __name__ == "__main__":
    del sys.path[0]  # this file's folder, whose names could hide packages
    main()
