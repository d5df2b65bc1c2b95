"""Damage to any file of a checkpoint is reported before the file is read."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.rllib.algorithms.algorithm import Algorithm

from rllib_seqmarl.algorithms.checkpoint_files import (
    CHECKSUMS,
    ChecksummedCheckpoints,
    DamagedCheckpointError,
    verify_checksums,
    write_checksums,
)

NAMES = ["learner_group", "algorithm_state.pkl", "missing.msgpack"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Create a folder with the layout of a checkpoint and an unrelated file."""
    (tmp_path / "learner_group" / "learner").mkdir(parents=True)
    (tmp_path / "learner_group" / "learner" / "state.pkl").write_bytes(bytes(range(200)))
    (tmp_path / "algorithm_state.pkl").write_bytes(pickle.dumps({"iteration": 3}))
    (tmp_path / "notes.txt").write_text("user file")
    write_checksums(tmp_path, NAMES)
    return tmp_path


def test_every_flipped_bit_is_reported_with_the_file(checkpoint: Path) -> None:
    for name in ("learner_group/learner/state.pkl", "algorithm_state.pkl"):
        content = (checkpoint / name).read_bytes()
        for place in range(8 * len(content)):
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << place % 8
            (checkpoint / name).write_bytes(flipped)
            with pytest.raises(DamagedCheckpointError, match=name):
                verify_checksums(checkpoint)
        (checkpoint / name).write_bytes(content)
    verify_checksums(checkpoint)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "algorithm_state.pkl").unlink(), "lacks its file algorithm_state.pkl"),
        (lambda root: (root / "algorithm_state.pkl").write_bytes(b""), "algorithm_state.pkl has changed"),
        (lambda root: (root / CHECKSUMS).write_text("{"), f"{CHECKSUMS} is damaged"),
        (lambda root: (root / CHECKSUMS).write_text("[1]"), f"{CHECKSUMS} is damaged"),
        (lambda root: (root / CHECKSUMS).write_bytes(b"\xff\xfe"), f"{CHECKSUMS} is damaged"),
    ],
)
def test_other_damage_is_reported(checkpoint: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(checkpoint)
    with pytest.raises(DamagedCheckpointError, match=message):
        verify_checksums(checkpoint)


def test_unrelated_files_and_checkpoints_of_earlier_versions_pass(checkpoint: Path) -> None:
    (checkpoint / "notes.txt").write_text("changed")
    verify_checksums(checkpoint)
    (checkpoint / CHECKSUMS).unlink()
    (checkpoint / "algorithm_state.pkl").write_bytes(b"")
    verify_checksums(checkpoint)


def test_nothing_is_unpickled_from_a_damaged_checkpoint(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(Algorithm, "from_checkpoint", lambda path, *args, **kwargs: read.append(str(path)))
    monkeypatch.setattr(Algorithm, "restore_from_path", lambda self, path, *args, **kwargs: read.append(str(path)))
    algorithm = object.__new__(ChecksummedCheckpoints)
    (checkpoint / "algorithm_state.pkl").write_bytes(b"\x80\x04.")
    for load in (ChecksummedCheckpoints.from_checkpoint, algorithm.restore_from_path):
        with pytest.raises(DamagedCheckpointError):
            load(str(checkpoint))
    assert not read
    write_checksums(checkpoint, NAMES)
    algorithm.restore_from_path(checkpoint)
    assert read == [str(checkpoint)]


@pytest.mark.parametrize(
    "detail",
    [
        "size mismatch for network.head: copying a param with shape [3] from checkpoint, the current one has [4].",
        'Unexpected key(s) in state_dict: "value_normalizer.mean".',
        'Missing key(s) in state_dict: "value_normalizer.mean".',
    ],
)
def test_a_checkpoint_of_another_network_is_reported_in_one_line(
    detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restore(self: Algorithm, path: str) -> None:
        raise RuntimeError(
            f"Error(s) in loading state_dict for JointSequenceModule:\n\t{detail}\n\tsize mismatch for x"
        )

    monkeypatch.setattr(Algorithm, "restore_from_path", restore)
    algorithm = object.__new__(ChecksummedCheckpoints)
    with pytest.raises(ValueError, match="is of another team or network") as raised:
        algorithm.restore_from_path(tmp_path)
    assert detail.strip(".") in str(raised.value) and "\n" not in str(raised.value)
