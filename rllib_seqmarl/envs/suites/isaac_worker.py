"""Worker process of `dexhands_isaac`: runs a task of Bi-DexHands in the old Python that Isaac Gym requires.

Run as a script, `python isaac_worker.py FD SETTINGS`. It imports nothing from this package and is compatible with
Python 3.8. The pipe carries raw bytes, since arrays pickled by a recent numpy cannot be read by a much older one.

The worker first sends the sizes, as JSON. It then answers requests of three messages each: a seed as text (empty for
none), the mask of copies to reset, bool (B,), and actions, float32 (B, n, width). An answer is one message of float32:
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
        # At the beginning of a step, the task resets the copies marked as done. Overwriting all marks also clears that
        # of a copy that was done in its reset step, which is not reported; it is evaluated again after this step.
        task.reset_buf[:] = torch.tensor(reset_mask, dtype=task.reset_buf.dtype)
        obs, state, rewards, done, _, _ = team.step([actions[:, row, :width] for row, width in enumerate(widths)])
        timed_out = task.progress_buf >= task.max_episode_length
        answer = (obs, state[:, 0], rewards[:, 0], done[:, 0], timed_out, task.successes)
        flat = [part.detach().cpu().to(torch.float32).flatten() for part in answer]
        pipe.send_bytes(torch.cat(flat).numpy().tobytes())


def make_team(settings: Any) -> Any:
    """Make a task in its multi-agent form, and return it with the function that seeds it.

    Args:
        settings: The task's name ("task"), each agent's parts of a hand ("agents", in Bi-DexHands' notation), and
            command line arguments for Bi-DexHands ("arguments").
    """
    import bidexhands  # imports Isaac Gym, which must precede torch

    os.chdir(os.path.dirname(os.path.abspath(bidexhands.__file__)))  # it reads settings and assets relative to this
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
    del sys.path[0]  # this file's folder, whose modules could shadow packages
    main()
