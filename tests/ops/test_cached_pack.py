"""Packed weights are cached within `cached_packs` only."""

from __future__ import annotations

import threading

import pytest
import torch

from rllib_seqmarl.mixers import MIXERS
from rllib_seqmarl.ops.decoding.cached_pack import cached_pack, cached_packs
from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy


def test_layers_are_packed_once_within_the_block_only() -> None:
    calls: list[object] = []

    @cached_pack
    def pack(*layers: object) -> int:
        calls.append(layers)
        return len(calls)

    one, two = object(), object()
    assert [pack(one), pack(one)] == [1, 2]
    with cached_packs() as packed:
        assert [pack(one), pack(two), pack(one), pack(one, two), pack(two)] == [3, 4, 3, 5, 4]
        results: list[int] = []
        other = threading.Thread(target=lambda: results.append(pack(one)))
        other.start()
        other.join()
        assert results == [6], "the cache is local to the thread"
        with cached_packs():
            assert pack(one) == 7
        assert pack(one) == 3
        packed.clear()
        assert pack(one) == 8
    assert pack(one) == 9


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_decisions_are_the_same_with_cached_weights(mixer: str, kind: str) -> None:
    torch.manual_seed(0)
    action = ActionSpec("discrete", (4, 3)) if kind == "discrete" else ActionSpec("continuous", dim=2)
    network = SequencePolicy(
        NetworkConfig(5, action, embed_dim=12, n_block=2, n_head=2, encoder_mixer=mixer, decoder_mixer=mixer)
    )
    obs = torch.randn(6, 3, 5)

    def decide() -> tuple[torch.Tensor, ...]:
        torch.manual_seed(1)
        return network.act(obs, deterministic=False)

    before = decide()
    with cached_packs() as packed:
        for _ in range(3):
            assert all(map(torch.equal, decide(), before))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        packed.clear()
        changed = decide()
    assert all(map(torch.equal, decide(), changed))
    assert not torch.equal(changed[1], before[1])
