"""Bi-DexHands (Chen et al. 2022, arXiv 2206.08686): tasks for two Shadow Hands, in Isaac Gym, as published.

Isaac Gym supports Python up to 3.8 only, so it cannot be imported where Ray runs. A worker process with an older Python
simulates all copies of the task on the GPU; observations and actions are sent over a pipe. This was tested with a
stand-in that has the simulator's interface, never with the simulator itself, which must be downloaded from NVIDIA.

`dexhands` has two of the tasks in MuJoCo, without these requirements.
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

from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult
from rllib_seqmarl.envs.options import check_choice, check_options
from rllib_seqmarl.envs.single_team import single
from rllib_seqmarl.envs.suite import Suite, listed_tasks
from rllib_seqmarl.envs.suites import isaac_worker
from rllib_seqmarl.envs.suites.dexhands import AGENTS
from rllib_seqmarl.envs.suites.dexhands_model import HANDS

TASKS = listed_tasks("dexhands-isaac")
# Each agent's parts of a hand, in Bi-DexHands' notation: 0 is the palm, 1 to 5 are the fingers from index to thumb.
PARTS = {"hands": "[[0, 1, 2, 3, 4, 5]]", "fingers": "[[0], [1], [2], [3], [4], [5]]"}
BOUND = 5.0  # to which Bi-DexHands clips observations
INSTALL = (
    "Bi-DexHands needs a separate Python, since Isaac Gym supports Python up to 3.8 only: create one (conda create -n "
    "isaac python=3.8; conda activate isaac), download Isaac Gym Preview 4 from developer.nvidia.com/isaac-gym, run "
    "pip install -e isaacgym/python, clone github.com/PKU-MARL/DexterousHands, run pip install -e DexterousHands, and "
    'give its path: env_config={"python": "/path/to/envs/isaac/bin/python"}'
)


class IsaacHands(BatchedSimulator):
    """Copies of a task.

    The reward is the same for all agents. Actions are in -1..1, for each hand: force and torque on its base (6; not in
    Over and ReOrientation, whose hands are fixed), wrist (2), then the fingers. Agents observe their own hand and the
    object, within -5..5; agents of the same hand have the same observation. The global state contains both hands and
    the object. See Bi-DexHands for the entries.

    Bi-DexHands does not distinguish episode ends. Here the time limit truncates and other ends terminate; an end at the
    last possible step counts as a truncation. A copy is reset in the step after its last one, so final observations are
    returned. That step, with zero actions, counts towards the time limit. `wins` reports whether the task's success was
    ever reached in the episode.

    Only the first copy's seed is used. Physics on the GPU is not bitwise reproducible.

    Args:
        task: Such as "ShadowHandDoorOpenInward".
        num_envs: B.
        python: Path of the Python 3.8 interpreter with Isaac Gym and Bi-DexHands.
        agents: "hands": two agents, right_hand and left_hand; or "fingers": twelve, the palm (base and wrist) and the
            fingers of each hand.
        episode_length: Steps of an episode, >= 1; None for the task's default.
        device: Device of the simulation: "cuda:0", "cuda:1", ... or "cpu".

    Raises:
        ValueError: An option has an invalid value.
        RuntimeError: The worker has exited; see its output on standard error.
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
        check_options(IsaacHands, locals(), {"episode_length": 1})
        if shutil.which(python) is None:
            raise ValueError(f"python={python!r} is not an executable. {INSTALL}.")
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
        return self._request(seed, actions, np.ones(self.num_envs, np.bool_)).observation

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        return self._request("", actions, reset_mask)

    def close(self) -> None:
        self._pipe.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _request(self, seed: str, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        try:
            for message in (seed.encode(), reset_mask.tobytes(), np.ascontiguousarray(actions, np.float32).tobytes()):
                self._pipe.send_bytes(message)
        except BrokenPipeError:
            pass  # receiving raises the informative error
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
                f"The Isaac Gym worker process has exited with status {code}; see its output on standard error. "
                f"If something is not installed: {INSTALL}."
            ) from None


def _start_worker(python: str, settings: dict[str, Any]) -> tuple[subprocess.Popen, Connection]:
    """Start the worker process and return it with our end of the pipe."""
    ours, theirs = socket.socketpair()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    # Isaac Gym loads libpython, which is not on the default search path of conda's Python.
    libraries = [str(Path(python).parent.parent / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    with theirs:
        process = subprocess.Popen(
            [python, isaac_worker.__file__, str(theirs.fileno()), json.dumps(settings)],
            pass_fds=[theirs.fileno()],
            env=environment,
        )
    return process, Connection(ours.detach())


SUITE = Suite(
    name="dexhands-isaac",
    tasks=TASKS,
    make=single(IsaacHands),
    make_batch=IsaacHands,
    external="Isaac Gym",
    install=INSTALL,
)
