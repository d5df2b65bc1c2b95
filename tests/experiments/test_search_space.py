"""Conversion of distributions to Tune's, and the configs that cover their values."""

from __future__ import annotations

import pytest
from ray.tune.search.sample import Categorical, Float, Integer

from rllib_seqmarl.experiments.search_space import corners, distributions, to_search_space


def space(value):
    return to_search_space(value, lambda *path: "file.yaml:1")


@pytest.mark.parametrize(
    ("text", "kind", "bounds"),
    [
        ({"uniform": [0, 1]}, Float, (0, 1)),
        ({"uniform": {"lower": 0, "upper": 1}}, Float, (0, 1)),
        ({"quniform": [0, 1, 0.1]}, Float, (0, 1)),
        ({"loguniform": [1e-5, 1e-3]}, Float, (1e-5, 1e-3)),
        ({"qloguniform": [1e-4, 1e-3, 1e-4]}, Float, (1e-4, 1e-3)),
        ({"randint": [1, 9]}, Integer, (1, 9)),
        ({"qrandint": [2, 8, 2]}, Integer, (2, 8)),
        ({"lograndint": [1, 9]}, Integer, (1, 9)),
        ({"qlograndint": [2, 8, 2]}, Integer, (2, 8)),
    ],
)
def test_ranges(text, kind, bounds):
    domain = space({"x": text})["x"]
    assert type(domain) is kind
    assert (domain.lower, domain.upper) == bounds
    assert bounds[0] <= domain.sample() <= bounds[1]


@pytest.mark.parametrize("text", [{"randn": [0, 1]}, {"randn": []}, {"qrandn": [0, 1, 0.1]}])
def test_normal_distributions(text):
    assert isinstance(space(text).sample(), float)


def test_choices_grids_and_plain_values_at_any_depth():
    found = space({"a": {"choice": [1, "x"]}, "b": {"c": {"grid_search": [[1, 2], None]}}, "d": {"uniform": 3, "e": 4}})
    assert isinstance(found["a"], Categorical) and found["a"].categories == [1, "x"]
    assert found["b"] == {"c": {"grid_search": [[1, 2], None]}}
    assert found["d"] == {"uniform": 3, "e": 4}  # two keys: a mapping that happens to have such a key
    assert [path for path, _ in distributions(found)] == [("a",), ("b", "c")]


def test_corners_cover_every_choice_and_both_ends_of_ranges():
    config = space({"a": {"choice": [1, 2, 3]}, "b": {"c": {"grid_search": [4, 5]}}, "d": {"randint": [0, 8]}, "e": 6})
    assert list(corners(config)) == [
        {"a": 1, "b": {"c": 4}, "d": 0, "e": 6},
        {"a": 2, "b": {"c": 4}, "d": 0, "e": 6},
        {"a": 3, "b": {"c": 4}, "d": 0, "e": 6},
        {"a": 1, "b": {"c": 5}, "d": 0, "e": 6},
        {"a": 1, "b": {"c": 4}, "d": 7, "e": 6},
    ]
    assert list(corners({"e": 6})) == [{"e": 6}]
