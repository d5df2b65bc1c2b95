"""The console names the current task during long silences."""

from __future__ import annotations

import logging
import time

import pytest

from rllib_seqmarl.experiments.console import Console


def test_the_current_task_is_printed_during_silences(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("rllib_seqmarl.some.part")
    with Console(interval=0.05):
        logger.info("Loading ...", extra={"under_way": "loading"})
        time.sleep(0.18)
        logger.info("Loaded.")
        time.sleep(0.12)
    logger.info("not shown")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Loading ..." and lines[1] == "loading: 0 s so far" and lines[-1] == "Loaded."
