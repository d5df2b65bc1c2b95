"""Early stopping by signals, with a checkpoint of every running trial, and by unreported stop criteria."""

from __future__ import annotations

import logging
import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from rllib_seqmarl.experiments import ExperimentError
from rllib_seqmarl.experiments.stopping import Stopping


def trial(name: str, status: str = "RUNNING") -> Any:
    return SimpleNamespace(trial_id=name, status=status)


def result(**metrics: Any) -> dict[str, Any]:
    return {"training_iteration": 1, "env_runners": metrics}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_when_every_running_trial_is_saved(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[int] = []
    stopping = Stopping({}, allow_late=False)
    trials = [trial("a"), trial("b"), trial("c", "PENDING"), trial("d", "TERMINATED")]
    before = signal.getsignal(number)
    with stopping.signals():
        stopping.on_trial_result(0, trials, trials[0], first := result())
        signal.raise_signal(number)
        monkeypatch.setattr(signal, "raise_signal", raised.append)
        assert "should_checkpoint" not in first and stopping.signum == number
        for saved in trials[:2]:
            stopping.on_step_end(0, trials)
            assert not raised
            stopping.on_trial_result(0, trials, saved, reported := result())
            assert reported["should_checkpoint"]
            stopping.on_trial_save(0, trials, saved)
        stopping.on_step_end(0, trials)
        assert raised == [signal.SIGUSR1]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)  # the second time
            signal.sigtimedwait([], 1)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("stop", "reported", "problem"),
    [
        ("env_runners/win_rate", result(episode_return_mean=1.0, win_rate=0.0), None),
        ("env_runners/win_rate", result(), None),  # no episode has finished yet
        ("env_runners/win_rate", result(episode_return_mean=float("nan")), None),
        ("evaluation/env_runners/win_rate", result(episode_return_mean=1.0), None),  # no evaluation yet
        (
            "env_runners/win_rate",
            result(episode_return_mean=1.0),
            "The environment does not report wins",
        ),
        (
            "env_runners/episode_len",
            result(episode_return_mean=1.0, episode_len_mean=3),
            "Did you mean 'env_runners/epi",
        ),
        (
            "evaluation/x",
            result(episode_return_mean=1.0) | {"evaluation": result(episode_return_mean=0.0)},
            "'evaluation/x' is not in the results",
        ),
    ],
)
def test_a_criterion_that_is_missing_after_the_first_episodes(stop: str, reported: Any, problem: str | None) -> None:
    stopping = Stopping({stop: "stop"}, allow_late=False)
    stopping.on_trial_result(0, [], trial("a"), reported)
    assert (stopping.problem is None) if problem is None else (problem in str(stopping.problem))
    assert stopping.is_requested == (problem is not None)


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ("search", "start the experiment under another name"),
        ("scheduler", "start the experiment under another name"),
        ("checkpoint_score_attr", "continue with --resume"),
    ],
)
def test_metrics_of_other_settings_that_are_missing(setting: str, remedy: str) -> None:
    stopping = Stopping({"env_runners/episode_retrun": setting}, allow_late=False)
    stopping.on_trial_result(0, [], trial("a"), result(episode_return_mean=1.0))
    assert stopping.problem is not None and remedy in stopping.problem
    assert stopping.problem.startswith(f"{setting}: metric 'env_runners/episode_retrun' is not in the results. Did you")


def test_sigusr1_saves_checkpoints_before_tune_stops() -> None:
    received: list[int] = []
    before = signal.getsignal(signal.SIGUSR1)
    stopping = Stopping({}, allow_late=False)
    with stopping.signals():
        signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))  # as Tune does when it starts
        stopping.on_step_begin(0, [trial("a")])
        signal.raise_signal(signal.SIGUSR1)
        assert stopping.signum == signal.SIGUSR1 and not received
        stopping.on_trial_save(0, [trial("a")], trial("a"))
        stopping.on_step_end(0, [trial("a")])
        assert received == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) is before


def test_user_callbacks_may_report_metrics_later(caplog: pytest.LogCaptureFixture) -> None:
    stopping = Stopping({"env_runners/mine": "stop"}, allow_late=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            stopping.on_trial_result(0, [], trial("a"), result(episode_return_mean=1.0))
    assert not stopping.is_requested and len(caplog.records) == 1


def test_trials_that_tune_did_not_resume_raise_an_error() -> None:
    stopping = Stopping({}, allow_late=False, resumed=["a", "b"])
    stopping.on_step_begin(0, [trial("a"), trial("b"), trial("new")])
    with pytest.raises(ExperimentError, match="could not resume"):
        stopping.on_step_begin(0, [trial("a")])
