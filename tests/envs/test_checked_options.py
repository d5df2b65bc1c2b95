"""Tests that options are checked by the annotations and defaults of whatever takes them."""

from typing import Any

import pytest

from rllib_seqmarl.envs.options import check_options


def make(
    name: str,
    flag: bool = True,
    count: int = 1,
    weight: float = 2,
    limit: int | None = None,
    unannotated=0.5,  # type: ignore[no-untyped-def]
    pair: tuple[float, float] = (0.0, 1.0),
    render_mode: str | None = None,
) -> None:
    """Takes one option of each kind."""


LIMITS = {"count": 1, "weight": 0, "limit": (2, 4)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flag": False, "count": 3, "weight": 0.5, "limit": 4, "unannotated": 1, "render_mode": "rgb_array"},
        {"limit": None, "render_mode": None, "weight": 1},
        {"name": 3, "pair": "not checked", "unknown": "not checked"},
    ],
)
def test_allowed_values(options: dict[str, Any]) -> None:
    check_options(make, options, LIMITS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flag": None}, "flag=None is unknown. Choose one of False, True"),
        ({"count": 1.0}, "count=1.0 is out of range: give an integer >= 1"),
        ({"count": None}, "count=None is out of range"),
        ({"count": True}, "count=True is out of range"),
        ({"weight": -0.5}, "weight=-0.5 is out of range: give a number >= 0"),
        ({"limit": 5}, "limit=5 is out of range: give an integer from 2 to 4"),
        ({"unannotated": "1"}, "unannotated='1' is out of range: give a number"),
        ({"render_mode": "human"}, "render_mode='human' is unknown. Choose one of None, rgb_array"),
    ],
)
def test_other_values_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_options(make, options, LIMITS)


def test_further_render_modes() -> None:
    check_options(make, {"render_mode": "human"}, render_modes=("rgb_array", "human"))
