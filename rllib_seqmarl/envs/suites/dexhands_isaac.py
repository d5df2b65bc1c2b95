"""Bi-DexHands (Chen et al. 2022, arXiv 2206.08686): tasks for two Shadow Hands, in Isaac Gym, as published.

Isaac Gym supports no Python newer than 3.8, so it cannot be imported where Ray runs. A worker process of an older
Python plays all copies of the task on the GPU; observations and actions go over a pipe. This was tested with a
stand-in for the simulator that has its interface, never with the simulator itself, which is NVIDIA's to download.

`dexhands` has two of the tasks in MuJoCo, for everybody.
"""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult
from rllib_seqmarl.envs.options import check_choice, check_number
from rllib_seqmarl.envs.single_team import SingleTeam
from rllib_seqmarl.envs.suite import Suite
from rllib_seqmarl.envs.suites import isaac_worker
from rllib_seqmarl.envs.suites.dexhands import AGENTS
from rllib_seqmarl.envs.suites.dexhands_model import HANDS

TASKS = {
    "ShadowHandOver": "One hand throws an object, the other one catches it.",
    "ShadowHandCatchUnderarm": "Hands throw an object to each other, underarm.",
    "ShadowHandTwoCatchUnderarm": "Hands exchange two objects, underarm.",
    "ShadowHandCatchAbreast": "Hands side by side throw an object to each other.",
    "ShadowHandCatchOver2Underarm": "One hand throws overarm, the other one catches underarm.",
    "ShadowHandLiftUnderarm": "Two hands lift a pot.",
    "ShadowHandDoorOpenInward": "Two hands pull a shut double door open.",
    "ShadowHandDoorOpenOutward": "Two hands push a shut double door open.",
    "ShadowHandDoorCloseInward": "Two hands push an open double door shut.",
    "ShadowHandDoorCloseOutward": "Two hands pull an open double door shut.",
    "ShadowHandBottleCap": "Two hands unscrew a bottle.",
    "ShadowHandPushBlock": "Two hands push a block each to its goal.",
    "ShadowHandSwingCup": "Two hands turn a cup by its handles.",
    "ShadowHandGraspAndPlace": "Two hands lift a block into a bucket.",
    "ShadowHandScissors": "Two hands open a pair of scissors.",
    "ShadowHandSwitch": "Two hands press a switch each.",
    "ShadowHandPen": "Two hands open a pen.",
    "ShadowHandReOrientation": "Two hands turn an object each.",
    "ShadowHandKettle": "Two hands pour water from a kettle into a bucket.",
    "ShadowHandBlockStack": "Two hands stack two blocks.",
}
# In Bi-DexHands' notation: which of a hand's six parts, palm and fingers from index to thumb, are which agent's.
PARTS = {"hands": "[[0, 1, 2, 3, 4, 5]]", "fingers": "[[0], [1], [2], [3], [4], [5]]"}
BOUND = 5.0  # within which Bi-DexHands clips what is observed
INSTALL = (
    "Bi-DexHands takes a Python of its own, since Isaac Gym supports none newer than 3.8: make one (conda create -n "
    "isaac python=3.8; conda activate isaac), download Isaac Gym Preview 4 from developer.nvidia.com/isaac-gym, run "
    "pip install -e isaacgym/python, clone github.com/PKU-MARL/DexterousHands, run pip install -e DexterousHands, and "
    'name that Python here: env_config={"python": "/path/to/envs/isaac/bin/python"}'
)


class IsaacHands(BatchedSimulator):
    """Copies of a task.

    The reward is the same for all agents. Actions are in -1..1: of each hand force and torque on its base (6; not in
    Over and ReOrientation, whose hands stand still), wrist (2), then the fingers. Agents observe their own hand and the
    object, within -5..5, agents of the same hand the same; the global state is all of it. See Bi-DexHands for what the
    numbers are.

    Bi-DexHands reports every end alike. Here the time limit truncates, and other ends terminate; an end at the very
    last step counts as the time limit's. A copy restarts with the step after its last one, so final observations are
    seen; that step, with actions of zero, is the first of the time limit's. `wins` tells whether the task's success was
    ever reached in the episode.

    A seed is for all copies: that of the first. The GPU's physics does not repeat to the last digit.

    Args:
        task: Such as "ShadowHandDoorOpenInward".
        num_envs: B.
        python: The Python, 3.8, that has Isaac Gym and Bi-DexHands.
        agents: "hands": two agents, right_hand and left_hand; or "fingers": twelve, the palm (base and wrist) and the
            fingers of either hand.
        episode_length: Steps of an episode, at least 1; by default the task's own.
        device: Where Isaac Gym simulates, "cuda:0", "cuda:1", ... or "cpu".

    Raises:
        ValueError: An option has a wrong value.
        RuntimeError: The worker has ended; what it said last is in the standard error.
    """

    def __init__(
        self,
        task: str,
        num_envs: int,
        *,
        python: str = "",
        agents: str = "hands",
        episode_length: int | None = None,
        device: str = "cuda:0",
    ):
        check_choice("task", task, TASKS)
        check_choice("agents", agents, PARTS)
        if episode_length is not None:
            check_number("episode_length", episode_length, 1)
        if shutil.which(python) is None:
            raise ValueError(f"python={python!r} is no program. {INSTALL}.")
        arguments = ["--headless", "--num_envs", str(num_envs), "--sim_device", device, "--rl_device", device]
        arguments += ["--pipeline", "cpu" if device == "cpu" else "gpu"]
        arguments += ["--episode_length", str(episode_length)] if episode_length else []
        self._process, self._pipe = _start_worker(
            python, {"task": task, "agents": PARTS[agents], "arguments": arguments}
        )
        sizes = json.loads(self._receive())
        self.num_envs = num_envs
        self.agents = tuple(f"{hand}_{part}" for hand in HANDS for part in AGENTS[agents])
        n = len(self.agents)
        self.observation_spaces = (spaces.Box(-BOUND, BOUND, (sizes["observation"],), np.float32),) * n
        self.action_spaces = tuple(spaces.Box(-1, 1, (width,), np.float32) for width in sizes["actions"])
        self.state_dim = sizes["state"]
        self.episode_length = sizes["episode_length"]
        self._width = max(sizes["actions"])
        shapes = ((num_envs, n, sizes["observation"]), (num_envs, self.state_dim), *[(num_envs,)] * 4)
        self._shapes: tuple[tuple[int, ...], ...] = shapes
        self._ends = np.cumsum([int(np.prod(shape)) for shape in shapes])  # of the parts of an answer

    def reset(self, seeds: Sequence[int] | None = None) -> BatchObservation:
        actions = np.zeros((self.num_envs, len(self.agents), self._width), np.float32)
        seed = "" if seeds is None else str(seeds[0] % 2**32)
        return self._ask(seed, actions, np.ones(self.num_envs, np.bool_)).observation

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        return self._ask("", actions, reset_mask)

    def close(self) -> None:
        self._pipe.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, seed: str, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        try:
            for message in (seed.encode(), reset_mask.tobytes(), np.ascontiguousarray(actions, np.float32).tobytes()):
                self._pipe.send_bytes(message)
        except BrokenPipeError:
            pass  # receiving tells why
        flat = np.frombuffer(self._receive(), np.float32).copy()
        parts = [part.reshape(shape) for part, shape in zip(np.split(flat, self._ends[:-1]), self._shapes, strict=True)]
        observations, state, rewards, done, timed_out, successes = parts
        rewards[reset_mask] = 0.0
        over = (done > 0) & ~reset_mask
        n = len(self.agents)
        return StepResult(
            observation=BatchObservation(observations, alive=np.ones((self.num_envs, n), np.bool_), state=state),
            rewards=np.repeat(rewards[:, None], n, axis=1),
            terminated=over & (timed_out == 0),
            truncated=over & (timed_out > 0),
            wins=(successes > 0).astype(np.float32),
        )

    def _receive(self) -> bytes:
        try:
            return self._pipe.recv_bytes()
        except (EOFError, ConnectionResetError):
            code = self._process.wait()
            raise RuntimeError(
                f"The process that runs Isaac Gym has ended with exit status {code}; the standard error tells why. "
                f"If something is not installed: {INSTALL}."
            ) from None


def _start_worker(python: str, settings: dict[str, Any]) -> tuple[subprocess.Popen, Connection]:
    """The process, and this end of the pipe to it."""
    ours, theirs = socket.socketpair()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    # Isaac Gym loads libpython, which conda's Python does not find by itself.
    libraries = [str(Path(python).parent.parent / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    with theirs:
        process = subprocess.Popen(
            [python, isaac_worker.__file__, str(theirs.fileno()), json.dumps(settings)],
            pass_fds=[theirs.fileno()],
            env=environment,
        )
    return process, Connection(ours.detach())


def make_isaac(
    task: str,
    *,
    python: str = "",
    agents: str = "hands",
    episode_length: int | None = None,
    device: str = "cuda:0",
) -> ParallelEnv:
    """One copy; options as :class:`IsaacHands`."""
    return SingleTeam(IsaacHands(task, 1, python=python, agents=agents, episode_length=episode_length, device=device))


SUITE = Suite(
    name="dexhands-isaac",
    tasks=TASKS,
    make=make_isaac,
    make_batch=IsaacHands,
    external="Isaac Gym",
    install=INSTALL,
)
