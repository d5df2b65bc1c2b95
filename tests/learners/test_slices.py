"""Gradients of slices sum to those of the batch, for any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_seqmarl import MATConfig
from rllib_seqmarl.learners import slices as slicing
from rllib_seqmarl.learners.rollout_data import RolloutData

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_slices_are_views_that_cover_all_rows() -> None:
    columns = {"actions": torch.arange(10_000), "obs": {"state": torch.zeros(10_000, 2)}}
    parts = slicing.slices(columns, (10_000, 3), CPU)
    assert len(parts) == round(10_000 * 3 / slicing.TOKENS)
    assert torch.equal(torch.cat([part.columns["actions"] for part in parts]), columns["actions"])
    assert all(part.columns["obs"]["state"]._base is columns["obs"]["state"] for part in parts)
    assert len(slicing.slices(columns, (10_000, 3), torch.device("cuda"))) == 1
    assert len(slicing.slices(columns, (10_000, 10**6), CPU)) == 10_000  # one team exceeds a slice


def test_windows_are_cut_after_their_last_steps() -> None:
    """As many windows are as long as a rollout's last, short ones; some are empty."""
    torch.manual_seed(0)
    ends = torch.tensor([8, 1, 8, 0, 8, 3, 7, 1])  # the first windows have some rows without steps in between
    mask = (torch.arange(8) < ends[:, None]) & ((torch.arange(8) != 3) | (ends != 8)[:, None])
    columns = {
        "loss_mask": mask,
        "actions": torch.arange(8 * 8 * 3).view(8, 8, 3),
        "state_in": {"encoder": [torch.arange(8)]},
    }
    for device in (CPU, torch.device("meta")):
        parts = slicing.slices(columns, (8, 8, 3), device)
        assert [part.columns["actions"].shape[:2] for part in parts] == [(4, 8), (1, 3), (3, 1)]
        seen = torch.cat([part.columns["state_in"]["encoder"][0] for part in parts])
        assert seen.tolist() == [0, 2, 4, 6, 5, 1, 3, 7]
        joined = slicing.join_slices(parts, [part.columns["actions"] for part in parts], (8, 8, 3))
        kept = torch.arange(8) < torch.tensor([8, 1, 8, 1, 8, 3, 8, 1])[:, None]  # as the longest of its slice
        assert torch.equal(joined, columns["actions"] * kept[..., None])


def test_equal_windows_are_views() -> None:
    columns = {"loss_mask": torch.ones(600, 8, dtype=torch.bool), "actions": torch.zeros(600, 8, 3)}
    parts = slicing.slices(columns, (600, 8, 3), CPU)
    assert len(parts) == round(600 * 8 * 3 / slicing.TOKENS)
    assert all(part.columns["actions"]._base is columns["actions"] for part in parts)


def test_results_are_in_order_and_torchs_thread_count_is_restored(threads: int) -> None:
    used: set[tuple[int, int]] = set()

    def function(part: int) -> int:
        used.add((threading.get_ident(), torch.get_num_threads()))
        return part * 2

    assert slicing.map_slices(function, list(range(50))) == list(range(0, 100, 2))
    assert {number for _, number in used} == {1}  # each slice is computed with one torch thread
    assert torch.get_num_threads() == threads
    numbers = []
    other = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert numbers == [threads]


def test_an_error_in_a_slice_is_raised(threads: int) -> None:
    def function(part: int) -> int:
        raise ValueError(f"slice {part}")

    with pytest.raises(ValueError, match="slice 0"):
        slicing.map_slices(function, [0, 1])


def test_gradients_missing_in_all_slices_stay_none() -> None:
    one, two = (torch.ones(2), None, torch.ones(1)), (torch.ones(2), None, torch.ones(1))
    (first, second, third), loss = slicing.add_gradients([one, two], torch.tensor(3.0))
    assert loss.item() == 3.0
    assert second is None
    assert first is not None and first.tolist() == [2.0, 2.0]
    assert third is not None and third.tolist() == [2.0]


@pytest.mark.usefixtures("ray_cluster")
def test_a_sliced_update_equals_rllibs_update(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """An agent is dead in a third of the steps, so that slices have different weights."""
    algo = (
        MATConfig()
        .environment("coordination/distinct_choice", env_config={"n_agents": 3, "max_cycles": 5})
        .env_runners(num_envs_per_env_runner=4)
        .training(train_batch_size_per_learner=60, num_epochs=3, lr=1e-2, grad_clip=0.5)
        .network(embed_dim=16)
        .debugging(seed=1)
        .build_algo()
    )
    learner = algo.learner_group._learner
    rollout = algo.env_runner.sample()
    rollout.obs["alive"][::3, :, 0] = 0
    start = algo.learner_group.get_state()

    def update() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        algo.learner_group.set_state(start)
        torch.manual_seed(0)
        result = algo.learner_group.update(training_data=RolloutData(rollouts=[rollout]), num_epochs=3)
        learned = {key: value.peek() for key, value in result[0][DEFAULT_MODULE_ID].items() if hasattr(value, "peek")}
        names = ("policy_loss", "vf_loss", "entropy", "clip_fraction", "vf_explained_var")
        return (
            {
                key: torch.as_tensor(value).clone()
                for key, value in learner.module[DEFAULT_MODULE_ID].state_dict().items()
            },
            {name: float(learned[name]) for name in names},
        )

    monkeypatch.setattr(type(learner), "_can_slice", lambda self: False)
    expected, expected_results = update()
    monkeypatch.undo()
    assert learner._can_slice()
    monkeypatch.setattr(slicing, "TOKENS", 25)  # eight teams of three
    actual, results = update()
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, atol=2e-6, rtol=1e-5, msg=key)
    assert results == pytest.approx(expected_results, abs=1e-5)
    algo.stop()
