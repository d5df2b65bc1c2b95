"""Fault injection: kills processes, damages files, and checks the outcome of the run.

    python benchmarks/reliability.py [SCENARIO ...] [--out docs/reliability.md]

Each scenario prints one row of a table: the fault, what was checked, and the result. The exit status is 1 if a check
fails. All scenarios together take less than 20 minutes on two cores:

env-runner: an env runner process is killed every 20 s for 5 minutes.
learner: one of two learner processes is killed during the run; Tune restarts the trial.
driver: the `rllib train` process is killed (SIGKILL) and resumed; compared to an uninterrupted run with the same seed.
node: one node of a local cluster of three is removed during the run.
files: 500 experiment files with one random defect each.
checkpoint: single bits of a checkpoint's files are flipped.
memory: the memory of the driver and of an env runner over the iterations of half an hour of training.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from rllib_seqmarl import JointPolicy, MATConfig, __version__
from rllib_seqmarl.algorithms.checkpoint_files import DamagedCheckpointError, verify_checksums
from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.experiment_file import load_experiments
from rllib_seqmarl.policies.export import ExportError

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "experiments"))
from spoilt_files import spoilt_files  # noqa: E402

BATCH = 160  # env steps per iteration
PATIENCE = 300  # seconds; generous for busy machines, as training itself takes seconds
POLICY = "learner_group/learner/rl_module/default_policy/policy"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        fault: The injected fault.
        result: The measured outcome.
        passed: Whether all checks passed.
    """

    fault: str
    result: str
    passed: bool

    def __str__(self) -> str:
        return f"| {self.fault} | {self.result} | {'yes' if self.passed else '**NO**'} |"


def config(**env_runners: Any) -> MATConfig:
    return (
        MATConfig()
        .environment("coordination/distinct_choice", env_config={"n_agents": 3})
        .env_runners(num_envs_per_env_runner=8, **env_runners)
        .training(train_batch_size_per_learner=BATCH, num_epochs=2)
        .network(embed_dim=16)
        .debugging(seed=0)
        .fault_tolerance(delay_between_env_runner_restarts_s=0.5)
    )


@contextmanager
def local_ray() -> Iterator[None]:
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


class CountedTraining:
    """Trains and counts the env steps passed to the learner, independently of RLlib's counters."""

    def __init__(self, algo: Any) -> None:
        self.algo = algo
        self.learned = self.sampled = self.iterations = 0
        learn = algo._learn

        def counted(samples: list[Any]) -> None:
            self.learned += sum(sample.env_steps for sample in samples)
            learn(samples)

        algo._learn = counted

    def iterate(self) -> None:
        self.sampled = int(self.algo.train()["num_env_steps_sampled_lifetime"])
        self.iterations += 1

    @property
    def is_exact(self) -> bool:
        """Whether every sampled step was counted and learned from exactly once."""
        return self.sampled == self.learned

    def recovered(self, runners: int, seconds: float = 60.0) -> bool:
        """Train until all env runners are healthy; returns whether that happened in time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.iterate()
            if self.algo.env_runner_group.num_healthy_remote_workers() == runners:
                return True
            time.sleep(0.2)
        return False


def env_runner(minutes: float = 5.0, every: float = 20.0) -> Row:
    """Kill an env runner process repeatedly, at arbitrary points of an iteration."""
    with local_ray():
        run = CountedTraining(config(num_env_runners=2).build_algo())
        start, kills = time.monotonic(), 0
        while time.monotonic() - start < 60 * minutes:
            if time.monotonic() - start > every * (kills + 1):
                pids = run.algo.env_runner_group.foreach_env_runner(lambda _: os.getpid(), local_env_runner=False)
                if pids:  # otherwise all of them are still being restarted
                    threading.Timer(0.02, os.kill, (pids[kills % len(pids)], signal.SIGKILL)).start()
                    kills += 1
            run.iterate()
        recovered = run.recovered(2)
        run.algo.stop()
    result = (
        f"{run.iterations:,} iterations; {run.sampled:,} env steps counted, {run.learned:,} learned from; "
        f"all env runners {'back' if recovered else 'NOT back'}"
    )
    fault = f"one of 2 env runners killed every {every:g} s for {minutes:g} minutes ({kills} times)"
    return Row(fault, result, run.is_exact and recovered and kills > 0)


def learner() -> Row:
    """Kill a learner; Tune must restart the trial from its last checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"num_learners": 2, "num_cpus_per_learner": 1, "train_batch_size_per_learner": BATCH // 2}
        with training(folder, iterations=200, config=settings, more=("--max-failures", "2")) as process:
            wait_for_rows(folder, 4)
            victims = [child for child in psutil.Process(process.pid).children(recursive=True) if is_learner(child)]
            for victim in victims[:1]:
                victim.kill()
            code = process.wait(timeout=PATIENCE)
        rows = results(folder)
    iterations = [row["training_iteration"] for row in rows]
    steps = int(rows[-1]["num_env_steps_sampled_lifetime"])
    passed = bool(victims) and code == 0 and iterations == list(range(1, 201)) and steps == 200 * BATCH
    result = f"exit status {code}; iterations {iterations[0]} to {iterations[-1]}, each once; {steps:,} env steps"
    return Row("one of 2 learners killed; `--max-failures 2`", result, passed)


def driver() -> Row:
    """Kill and resume a run, and compare its rows to those of an uninterrupted run with the same seed."""
    with tempfile.TemporaryDirectory() as folder:
        uninterrupted, killed = Path(folder, "a"), Path(folder, "b")
        with training(uninterrupted, iterations=200) as process:
            process.wait(timeout=PATIENCE)
        with training(killed, iterations=200):
            wait_for_rows(killed, 6)  # the end of the block kills the process
        at_kill = len(results(killed))
        with training(killed, iterations=200, more=("--resume",)) as process:
            code = process.wait(timeout=PATIENCE)
        expected, rows = results(uninterrupted), results(killed)
        resumed_from = first_difference(expected, rows)
        same_weights = all(
            torch.equal(tensor, second[name])
            for second in [load_file(checkpoint_of(killed, 4) / f"{POLICY}.safetensors")]
            for name, tensor in load_file(checkpoint_of(uninterrupted, 4) / f"{POLICY}.safetensors").items()
        )
    counters = ("training_iteration", "num_env_steps_sampled_lifetime")
    same_counters = [[row[key] for key in counters] for row in rows] == [
        [row[key] for key in counters] for row in expected
    ]
    result = (
        f"exit status {code}; {len(rows)} rows, counters {'' if same_counters else 'NOT '}as uninterrupted; returns "
        f"equal up to iteration {resumed_from}, the checkpoint's weights {'' if same_weights else 'NOT '}bit for bit"
    )
    passed = code == 0 and same_counters and same_weights and resumed_from >= 4
    return Row(f"`rllib train` killed after iteration {at_kill}, then `--resume`", result, passed)


def node() -> Row:
    """Remove a node; its env runner must restart on another one."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        workers = [cluster.add_node(num_cpus=2) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        run = CountedTraining(config(num_env_runners=3).build_algo())
        for _ in range(20):
            run.iterate()
        node_ids = run.algo.env_runner_group.foreach_env_runner(
            lambda _: ray.get_runtime_context().get_node_id(), local_env_runner=False
        )
        removed = next(worker for worker in workers if worker.node_id in node_ids)
        lost = node_ids.count(removed.node_id)
        threading.Timer(0.02, cluster.remove_node, (removed, False)).start()
        for _ in range(20):
            run.iterate()
        left = run.algo.env_runner_group.num_healthy_remote_workers()
        for _ in range(20):
            run.iterate()
        run.algo.stop()
    finally:
        ray.shutdown()
        cluster.shutdown()
    result = (
        f"{run.iterations} iterations completed; {run.sampled:,} env steps counted, {run.learned:,} learned from; "
        f"{left} of 3 env runners healthy 20 iterations later"
    )
    return Row(f"one of 3 nodes removed, with {lost} of 3 env runners", result, run.is_exact and left >= 1)


def files(number: int = 500) -> Row:
    """Load files with one random defect each; see tests/experiments/spoilt_files.py."""
    tracebacks = accepted = must_fail = rejected = 0
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for spoilt in spoilt_files(number, seed=0):
            file = Path(folder, "spoilt.yaml")
            file.write_text(spoilt.text, encoding="utf-8")
            must_fail += spoilt.must_fail
            start = time.monotonic()
            try:
                load_experiments(file)
            except ExperimentError:
                rejected += 1
            except Exception:
                tracebacks += 1
            else:
                accepted += spoilt.must_fail
            slowest = max(slowest, time.monotonic() - start)
    result = (
        f"{must_fail} must be rejected, {accepted} were accepted; {rejected} rejected in total (some defects leave "
        f"a valid file); {tracebacks} tracebacks; the slowest took {slowest:.2f} s"
    )
    fault = f"{number} experiment files with a random defect"
    return Row(fault, result, not tracebacks and not accepted and slowest < 2)


def checkpoint(stride: int = 8) -> Row:
    """Flip a bit of every byte of the exported policy, and of every eighth byte of the whole checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        with local_ray():
            algo = config().network(embed_dim=8).build_algo()
            algo.train()
            path = Path(algo.save_to_path(folder))
            algo.stop()
        policy = [Path(f"{path / POLICY}.{ending}") for ending in ("json", "safetensors")]
        flips = [(file, lambda: JointPolicy.load(path / POLICY), 1) for file in policy]
        others = [file for file in path.rglob("*") if file.is_file() and file.name != "checksums.json"]
        flips += [(file, lambda: verify_checksums(path), stride) for file in others]
        tried = missed = 0
        for file, load, step in flips:
            content = file.read_bytes()
            for place in range(0, len(content), step):
                damaged = bytearray(content)
                damaged[place] ^= 1 << place % 8
                file.write_bytes(damaged)
                tried += 1
                missed += not is_reported(load)
            file.write_bytes(content)
    return Row(f"one bit of a checkpoint flipped ({tried:,} times)", f"{tried - missed:,} reported", not missed)


def memory(iterations: int = 1800, warm_up: int = 300) -> Row:
    """Measure memory growth over half an hour of one-second iterations, the duration of MAT's defaults on two cores."""
    with local_ray():
        algo = config(num_env_runners=1).build_algo()
        (pid,) = algo.env_runner_group.foreach_env_runner(lambda _: os.getpid(), local_env_runner=False)
        processes = {"driver": psutil.Process(), "env runner": psutil.Process(pid)}
        before: dict[str, int] = {}
        for iteration in range(warm_up + iterations):
            if iteration == warm_up:
                before = {name: process.memory_info().rss for name, process in processes.items()}
            algo.train()
        growth = {name: process.memory_info().rss / before[name] - 1 for name, process in processes.items()}
        sizes = {name: before[name] / 2**20 for name in before}
        algo.stop()
    result = "; ".join(f"{name} {sizes[name]:,.0f} MiB, {growth[name]:+.1%}" for name in growth)
    return Row(f"{iterations:,} iterations after the first {warm_up}", f"memory: {result}", max(growth.values()) < 0.05)


SCENARIOS: dict[str, Callable[[], Row]] = {
    "env-runner": env_runner,
    "learner": learner,
    "driver": driver,
    "node": node,
    "files": files,
    "checkpoint": checkpoint,
    "memory": memory,
}


# -- training in a separate process -----------------------------------------------------------------------------------


@contextmanager
def training(
    folder: str | Path, *, iterations: int, config: dict[str, Any] | None = None, more: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `rllib train` in a process that is killed at the end of the block if it is still running."""
    settings = {"train_batch_size_per_learner": BATCH, "num_epochs": 2, "embed_dim": 16, **(config or {})}
    options = {
        "--run": "MAT",
        "--env": "coordination/distinct_choice",
        "--local-dir": str(folder),
        "-n": "run",
        "--config": json.dumps(settings),
        "--stop": json.dumps({"training_iteration": iterations}),
        "--checkpoint-freq": "1",
        "--keep-checkpoints-num": "0",
        "--seed": "0",
        "--ray-num-cpus": "4",
    }
    command = [sys.executable, "-m", "rllib_seqmarl.cli", "train", *(word for pair in options.items() for word in pair)]
    process = subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_tree(process)


def results(folder: str | Path) -> list[dict[str, Any]]:
    """Return the rows of the run's result.json without an incomplete last line."""
    text = "".join(file.read_text() for file in Path(folder).glob("run/MAT_*/result.json"))
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def wait_for_rows(folder: str | Path, number: int) -> None:
    until = time.monotonic() + PATIENCE
    while len(results(folder)) < number:
        if time.monotonic() > until:
            raise TimeoutError(f"{folder}: {number} iterations were not reached in {PATIENCE} s")
        time.sleep(0.05)


def checkpoint_of(folder: Path, iteration: int) -> Path:
    (found,) = folder.glob(f"run/MAT_*/checkpoint_{iteration - 1:06d}")
    return found


def first_difference(expected: list[dict[str, Any]], rows: list[dict[str, Any]]) -> int:
    """Return the last iteration up to which two runs had the same returns."""
    pairs = zip(expected, rows, strict=False)
    returns = [[str(row["env_runners"]["episode_return_mean"]) for row in pair] for pair in pairs]  # NaN equals NaN
    return next((i for i, (first, second) in enumerate(returns) if first != second), len(returns))


def is_learner(process: psutil.Process) -> bool:
    try:
        return "_WrappedExecutable" in process.cmdline()[0]  # RLlib starts learners with Ray Train's executor
    except (psutil.Error, IndexError):  # the process has ended
        return False


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill the driver first, as the out-of-memory killer would, and then its remaining children."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    time.sleep(2.0)
    for child in children:
        if child.is_running():
            child.kill()


def is_reported(load: Callable[[], object]) -> bool:
    try:
        load()
    except (ExportError, DamagedCheckpointError):
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", help=f"any of {', '.join(SCENARIOS)} [all]")
    parser.add_argument("--out", type=Path, help="Markdown file to write the table to")
    args = parser.parse_args()
    if unknown := set(args.scenarios) - SCENARIOS.keys():
        parser.error(f"unknown scenario {', '.join(unknown)}: choose from {', '.join(SCENARIOS)}")
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    print("| fault | result | passed |\n|---|---|---|", flush=True)
    rows = []
    for name in args.scenarios or SCENARIOS:
        rows.append(SCENARIOS[name]())
        print(rows[-1], flush=True)
    if args.out is not None:
        write_page(args.out, rows)
    sys.exit(not all(row.passed for row in rows))


def write_page(path: Path, rows: list[Row]) -> None:
    """Write the table and the versions it was measured with."""
    revision = "an installed package"
    if shutil.which("git"):
        found = subprocess.run(
            ["git", "-C", Path(__file__).parent, "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
        revision = f"commit {found.stdout.strip()}" if found.returncode == 0 else revision
    lines = [
        "# Reliability",
        "",
        "`make reliability` injects faults into training runs and checks that no completed work is lost, no step is",
        "counted twice, and damage is reported with a clear message. It takes less than 20 minutes.",
        "",
        "| fault | result | passed |",
        "|---|---|---|",
        *map(str, rows),
        "",
        f"Measured with rllib_seqmarl {__version__} ({revision}), Ray {ray.__version__}, torch {torch.__version__},",
        f"Python {platform.python_version()}, {os.cpu_count()} cores, by `python benchmarks/reliability.py`.",
        "",
    ]
    path.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
