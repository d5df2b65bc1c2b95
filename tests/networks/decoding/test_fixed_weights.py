"""Within `fixed_weights`, weights are packed once per thread, and decisions stay the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rllib_seqmarl.mixers import MIXERS
from rllib_seqmarl.networks.decoding import fast_decoder
from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy

pytest.importorskip("numba")


def make_network(mixer: str, kind: str) -> SequencePolicy:
    torch.manual_seed(0)
    action = ActionSpec("discrete", (4, 3)) if kind == "discrete" else ActionSpec("continuous", dim=2)
    return SequencePolicy(
        NetworkConfig(5, action, embed_dim=12, n_block=2, n_head=2, encoder_mixer=mixer, decoder_mixer=mixer)
    )


def alike(ours: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...]) -> bool:
    """Whether two decisions are equal but for rounding, which depends on where arrays lie in memory."""
    return all(torch.allclose(x.double(), y.double(), rtol=0, atol=1e-5) for x, y in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_decisions_are_the_same_with_fixed_weights(mixer: str, kind: str) -> None:
    network, obs = make_network(mixer, kind), torch.randn(6, 3, 5)

    def decide(teams: int = 6) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(1)
        return network.act({"observations": obs[:teams]}, deterministic=False)[:3]

    before, of_four = decide(), decide(4)
    with network.fixed_weights():
        kept = [decide() for _ in range(3)]
        assert alike(decide(4), of_four)  # also for another number of teams
        for outputs in kept:  # and later decisions do not change earlier ones
            assert alike(outputs, before)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    changed = decide()
    assert not alike(changed[1:2], before[1:2])
    with network.fixed_weights():
        assert alike(decide(), changed)


def test_weights_are_packed_once_per_thread() -> None:
    network = make_network("attention", "discrete")
    kept: dict[int, object] = {}

    def decoder() -> object:
        return fast_decoder(network.decoder, network.head, "auto", kept)

    first = decoder()
    assert first is not None and decoder() is first
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(decoder).result() is not first
    assert len(kept) == 2
    kept.clear()
    assert decoder() is not first


def test_threads_can_share_a_network_with_fixed_weights() -> None:
    network = make_network("mamba", "discrete")
    batches = [{"observations": torch.randn(9, 5, 5)} for _ in range(16)]
    expected = [network.act(obs) for obs in batches]
    with network.fixed_weights(), ThreadPoolExecutor(4) as threads:
        for actual, alone in zip(threads.map(network.act, batches), expected, strict=True):
            assert alike(actual[:3], alone[:3])


def test_kernels_are_not_used_where_they_cannot_run() -> None:
    """Not even those that are kept, such as in autocast within a rollout."""
    network, kept = make_network("attention", "discrete"), {}
    assert fast_decoder(network.decoder, network.head, "auto", kept) is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast_decoder(network.decoder, network.head, "auto", kept) is None
    assert fast_decoder(network.decoder, network.head, "reference", kept) is None
