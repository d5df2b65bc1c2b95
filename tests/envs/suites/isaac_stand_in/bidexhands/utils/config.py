"""Options from the command line, and settings from files relative to the working directory."""

import argparse
import os
import random

import isaacgym  # noqa: F401
import numpy as np
import torch


def get_args(benchmark=False, use_rlg_config=False, task_name="", algo=""):
    parser = argparse.ArgumentParser()
    parser.add_argument("--headless", action="store_true")
    parser.add_argument("--num_envs", type=int, default=0)
    parser.add_argument("--episode_length", type=int, default=0)
    parser.add_argument("--sim_device", default="cuda:0")
    parser.add_argument("--rl_device", default="cuda:0")
    parser.add_argument("--pipeline", default="gpu")
    args = parser.parse_args()
    args.task, args.algo, args.task_type = task_name, algo, "Python"
    return args


def load_cfg(args, use_rlg_config=False):
    if not os.path.exists(os.path.join("utils", "config.py")):
        raise FileNotFoundError("the working directory is not the package's")
    env = {
        "numEnvs": args.num_envs or 256,
        "episodeLength": args.episode_length or 75,
        "handAgentIndex": "[[0, 1, 2, 3, 4, 5]]",
    }
    return {"env": env, "headless": args.headless}, {"seed": -1}, "logs/"


def parse_sim_params(args, cfg, cfg_train):
    return {"device": args.sim_device, "pipeline": args.pipeline}


def set_seed(seed, torch_deterministic=False):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed
