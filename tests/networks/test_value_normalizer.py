"""The value normaliser agrees with the published one and has the documented properties."""

from pathlib import Path

import numpy as np
import torch

from rllib_seqmarl.policies import ValueNormalizer

DATA = np.load(Path(__file__).parents[1] / "golden" / "mat_ppo_update.npz")


def state(when: str) -> dict[str, torch.Tensor]:
    names = {"mean": "mean", "mean_square": "mean_sq", "debias": "debias"}
    return {ours: torch.tensor(DATA[f"valuenorm_{theirs}_{when}"].item()) for ours, theirs in names.items()}


def test_update_equals_the_published_code():
    normalizer = ValueNormalizer()
    normalizer.load_state_dict(state("before"))
    normalizer.update(torch.from_numpy(DATA["returns"][:-1]))
    for name, expected in state("after").items():
        torch.testing.assert_close(getattr(normalizer, name).float(), expected, rtol=1e-5, atol=0)


def test_synced_learners_agree_with_one_learner():
    torch.manual_seed(0)
    returns = torch.randn(64) * 5 + 2
    alone, first, second = ValueNormalizer(), ValueNormalizer(), ValueNormalizer()
    alone.update(returns)
    first_sums: list[torch.Tensor] = []
    first.update(returns[:20], sync=lambda sums: first_sums.append(sums.clone()))
    second.update(returns[20:], sync=lambda sums: sums.add_(first_sums[0]))
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value)


def test_normalised_returns_are_standardised_and_can_be_denormalised():
    torch.manual_seed(0)
    normalizer, returns = ValueNormalizer(), torch.randn(10_000) * 30 - 400
    normalizer.update(returns)
    normalized = normalizer.normalize(returns)
    assert abs(normalized.mean()) < 1e-3 and abs(normalized.std() - 1) < 1e-3
    assert normalized.dtype == returns.dtype
    torch.testing.assert_close(normalizer.denormalize(normalized), returns)


def test_entries_with_zero_weight_are_ignored():
    returns, alive = torch.tensor([1.0, 2.0, 1e6]), torch.tensor([True, True, False])
    weighted, plain, nothing = ValueNormalizer(), ValueNormalizer(), ValueNormalizer()
    weighted.update(returns, alive)
    plain.update(returns[:2])
    nothing.update(returns, torch.zeros(3))
    assert all(torch.equal(weighted.state_dict()[name], value) for name, value in plain.state_dict().items())
    assert not any(value.any() for value in nothing.state_dict().values())
