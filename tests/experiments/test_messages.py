"""Output during and after training: progress lines, tables, root messages of errors."""

from __future__ import annotations

import errno
import os
import pickle

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.tune import TuneError

from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.failures import driver_message, root_message, trial_message
from rllib_seqmarl.experiments.metrics import metric, resolve_metric
from rllib_seqmarl.experiments.progress import Progress, duration
from rllib_seqmarl.experiments.report import table


def result(steps: int, seconds: float, iteration: int = 1, **runner: float) -> dict:
    return {
        "num_env_steps_sampled_lifetime": steps,
        "time_total_s": seconds,
        "training_iteration": iteration,
        "env_runners": runner,
    }


def test_a_progress_line_shows_steps_return_speed_and_time_left():
    progress = Progress("spread", 1, {"num_env_steps_sampled_lifetime": 100_000})
    line = progress.line("spread", result(20_000, 10.0, episode_return_mean=-21.3), result(10_000, 6.0))
    assert line.split(" | ") == [
        "spread",
        "     20,000 steps",
        "return    -21.30",
        "  2,500 steps/s",
        "40 s left",
    ]


def test_a_progress_line_shows_wins_if_reported_and_waits_for_the_first_episode():
    progress = Progress("spread", 1, {"env_runners/episode_return_mean": 3.0})
    assert "| won  25% |" in progress.line("spread", result(10, 1.0, win_rate=0.25), {})
    line = progress.line("spread", result(10, 1.0), {})
    assert "return       ..." in line and "left" not in line and "won" not in line


def test_the_time_left_is_until_the_first_criterion():
    progress = Progress("x", 1, {"time_total_s": 60, "training_iteration": 10, "num_env_steps_sampled_lifetime": 1e9})
    assert progress.seconds_left(result(10, 20.0, iteration=5)) == pytest.approx(20.0)  # 5 more iterations, 4 s each
    assert progress.seconds_left(result(10, 70.0, iteration=1)) == 0.0
    assert Progress("x", 1, {}).seconds_left(result(10, 1.0)) is None


def test_progress_survives_pickling_with_an_experiment():
    assert pickle.loads(pickle.dumps(Progress("x", 1, {}))).name == "x"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (3780, "1 h 03 min")],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


def test_numbers_in_a_table_are_right_aligned():
    assert table(["name", "x"], [["a", "1"], ["bcdef", "10"]]).splitlines() == [
        "name    x",
        "-----  --",
        "a       1",
        "bcdef  10",
    ]


def test_metrics_are_found_nested_and_flat_and_only_if_finite():
    assert metric({"a": {"b": 1}}, "a/b") == 1.0
    assert metric({"a/b": 2}, "a/b") == 2.0
    assert metric({"a": {"b": float("nan")}}, "a/b") is None
    assert metric({"a": 3}, "a/b") is None
    assert metric(None, "a") is None


def test_metrics_have_short_names():
    assert resolve_metric("episode_return_mean", "x") == "env_runners/episode_return_mean"
    assert resolve_metric("env_runners/my_own", "x") == "env_runners/my_own"
    with pytest.raises(ExperimentError, match="write 'env_steps' instead"):
        resolve_metric("timesteps_total", "x")


class WorldError(Exception):
    pass


def task_error(cause: Exception) -> RayTaskError:
    text = f'Traceback (most recent call last):\n  File "x.py", line 1\n{type(cause).__name__}: {cause}\n'
    return RayTaskError("f", text, cause, pid=1, ip="1.2.3.4")


def test_the_root_message_has_no_outer_frames():
    plain = ValueError("agent 'a': its reward is nan.")
    assert root_message(plain) == "agent 'a': its reward is nan."
    assert root_message(task_error(plain)) == "agent 'a': its reward is nan."
    assert root_message(task_error(task_error(WorldError("it broke"))).as_instanceof_cause()) == "WorldError: it broke"
    assert root_message(KeyError("x")) == "KeyError: 'x'"


def test_the_message_of_an_actor_that_could_not_start():
    died = ActorDiedError(task_error(RuntimeError("cannot build the world\nfor two reasons")))
    assert root_message(died) == "cannot build the world\nfor two reasons"


def test_an_empty_error_has_the_message_of_its_cause():
    text = (
        'ray::MAT.train() (pid=1)\n  File "a.py", line 1, in step\n    raise\n'
        "rllib_seqmarl.envs.errors.JointEnvError: spread, step 3: agent 'a': its reward is nan.\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        'ray::MAT.train() (pid=1)\n  File "b.py", line 1, in sample\nRuntimeError'
    )
    error = RayTaskError("f", text, RuntimeError(), pid=1, ip="1.2.3.4")
    assert root_message(error.as_instanceof_cause()) == "spread, step 3: agent 'a': its reward is nan."


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_reported_with_the_folder(number: int) -> None:
    error = OSError(number, os.strerror(number), "/results/mine/result.json")
    message = (
        f"/results/mine: results cannot be written ({os.strerror(number)}); free some space and continue with --resume."
    )
    assert trial_message(task_error(error), "/results/mine") == message
    assert driver_message(error, "/results/mine") == message
    tune_error = TuneError(f'Traceback (most recent call last):\n  File "tune.py", line 1\nOSError: {error}\n')
    assert driver_message(tune_error, "/results/mine") == message


def test_other_errors_of_tune_are_reported_in_one_line() -> None:
    error = TuneError('Traceback (most recent call last):\n  File "tune.py", line 1\nKeyError: 3\n')
    assert driver_message(error, "/results/mine") == "/results/mine: Tune stopped: KeyError: 3"
    assert driver_message(TuneError(), "/r") == "/r: Tune stopped: TuneError"
