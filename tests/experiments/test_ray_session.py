"""Which cluster a command connects to."""

from __future__ import annotations

import pytest

from rllib_seqmarl.experiments import ExperimentError
from rllib_seqmarl.experiments.ray_session import RaySession


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("variable", "is_local"), [("10.0.0.1:6379", False), ("auto", False), ("local", True), ("", True)]
)
def test_the_cluster_of_a_job_decides_what_is_available(
    variable: str, is_local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    capacity = RaySession(num_cpus=3, num_gpus=0).capacity()
    assert capacity == ({"CPU": 3, "GPU": 0} if is_local else None)


@pytest.mark.parametrize(
    ("option", "variable", "start"),
    [("host:1", "other:2", "--ray-address host:1: "), (None, "other:2", "environment variable RAY_ADDRESS=other:2: ")],
)
@pytest.mark.parametrize("error", [ConnectionError, ValueError, RuntimeError, ImportError])
def test_a_missing_cluster_is_named(
    option: str | None, variable: str, start: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: object) -> None:
        assert "num_cpus" not in options
        raise error("no answer\nfrom the head")

    monkeypatch.setenv("RAY_ADDRESS", variable)
    monkeypatch.setattr("ray.init", init)
    with pytest.raises(ExperimentError, match="no answer from the head") as raised, RaySession(option, 2).open():
        pass
    assert str(raised.value).startswith(start)
