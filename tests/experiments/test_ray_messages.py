"""Ray's messages are shortened to one line each."""

from __future__ import annotations

import logging

import pytest
from ray._private import worker

from rllib_seqmarl.experiments.ray_messages import OneLine, one_line, shorten_ray_messages

KILLED = """A worker died or was killed while executing a task by an unexpected system error. To troubleshoot
the problem, check the logs for the dead worker. RayTask ID: ffff Worker ID: 1234 Node ID: 5678
"""
FAILED = """Ray error (The actor died unexpectedly before finishing this task.
\tclass_name: RolloutEnvRunner
\tactor_id: 1fe2
\tpid: 77
The actor is dead because its worker process has died.), taking actor 1 out of service."""


def test_a_paragraph_becomes_a_line() -> None:
    line = one_line(KILLED)
    assert line.startswith("A worker died or was killed") and "\n" not in line and len(line) <= 240
    assert one_line(FAILED) == (
        "Ray error (The actor died unexpectedly before finishing this task. "
        "The actor is dead because its worker process has died.), taking actor 1 out of service."
    )


def test_log_records_are_shortened() -> None:
    record = logging.LogRecord("ray.rllib", logging.ERROR, "", 0, "%s", (FAILED,), None)
    assert OneLine().filter(record) and record.getMessage() == one_line(FAILED)
    ours = logging.LogRecord("rllib_seqmarl.cli", logging.ERROR, "", 0, "%s", (FAILED,), None)
    assert OneLine().filter(ours) and ours.getMessage() == FAILED


def test_messages_of_the_raylet_are_shortened(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    shorten_ray_messages()
    shorten_ray_messages()
    worker.print_to_stdstream({"lines": [KILLED + "\tmore"], "pid": "raylet", "is_err": False}, ignore_prefix=True)
    assert capsys.readouterr().out.strip().count("\n") == 0
