"""Defective experiment files are rejected quickly, with short messages that name the line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from spoilt_files import spoilt_files

from rllib_seqmarl.experiments import ExperimentError
from rllib_seqmarl.experiments.experiment_file import load_experiments
from rllib_seqmarl.experiments.plain_yaml import parse_yaml


def test_spoilt_files_are_rejected_quickly_with_short_messages(tmp_path: Path) -> None:
    path = tmp_path / "spoilt.yaml"
    for spoilt in spoilt_files(100, seed=0):
        path.write_text(spoilt.text)
        start = time.process_time()
        try:
            load_experiments(path)
            assert not spoilt.must_fail, spoilt.what
        except ExperimentError as raised:  # any other error fails the test
            lines = str(raised).splitlines()
            assert all(line.startswith(str(path)) and len(line) < 1000 for line in lines), (spoilt.what, lines)
        assert time.process_time() - start < 2, spoilt.what


def test_spoilt_files_are_reproducible() -> None:
    assert list(spoilt_files(20, seed=3)) == list(spoilt_files(20, seed=3)) != list(spoilt_files(20, seed=4))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{a: 2001-01-01}", "2001-01-01"),
        ("{a: 'yes'}", "yes"),
        ('{"a": "1:30"}', "1:30"),
        ("{a: no_mask}", "no_mask"),
        ("{a: 0.5}", 0.5),
        ("{a: 0}", 0),
        ("{a: 9223372036854775807}", 2**63 - 1),
        ("{a: 'é'}", "é"),
        ("{x: &x [1, 2], a: *x}", [1, 2]),
    ],
)
def test_plain_data_is_parsed(text: str, value: object) -> None:
    assert parse_yaml(text, "x").value["a"] == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{a: No}", "'No' means different things in different versions of YAML: write true or false"),
        ("{a: [1, 0777]}", "without the leading zero"),
        ("{a: 12:30:45}", "put it in quotes"),
        ("{a: 1e309}", "1e309 is too large for a number"),
        ("{a: -9223372036854775809}", "a whole number exceeds 64 bits"),
        ("{a: " + "9" * 5000 + "}", "is not a valid value of its tag or type"),
        ("{a: .NAN}", "not a number"),
        ("{a: {3: x}}", "keys must be text: put 3 in quotes"),
        ("{a: {[1, 2]: x}}", "keys must be text: put a list or mapping in quotes"),
        ("{off: 1}", "keys must be text: put off in quotes"),
        ("a: &a {b: *a}", "an alias refers to a node that contains it"),
        ("{a: " + "[" * 60 + "]" * 60 + "}", "more than 50 levels"),
        ("[" + "1, " * 10_001 + "]", "more than 10,000 values"),
        ("{a: !!set {x, y}}", "only plain data"),
        ("{a: !!timestamp 2001-01-01}", "only plain data"),
        ("a\x07: 1", "not valid YAML"),
        ("x" * 200_001, "too long for an experiment"),
    ],
)
def test_other_data_is_rejected_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(ExperimentError) as raised:
        parse_yaml(text, "x.yaml")
    assert str(raised.value).startswith("x.yaml") and reason in str(raised.value)
    assert "\n" not in str(raised.value)
