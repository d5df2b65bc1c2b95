"""Silence at the terminal is filled with what is under way."""

from __future__ import annotations

import logging
import time

import pytest

from rllib_seqmarl.experiments.console import Console


def test_silence_is_filled_while_work_is_under_way(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("rllib_seqmarl.some.part")
    with Console(interval=0.05):
        logger.info("Loading ...", extra={"under_way": "loading"})
        time.sleep(0.18)
        logger.info("Loaded.")
        time.sleep(0.12)
    logger.info("unseen")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Loading ..." and lines[1] == "loading: 0 s so far" and lines[-1] == "Loaded."
