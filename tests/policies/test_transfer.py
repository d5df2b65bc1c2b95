"""Transfer of weights from one team's network to another's, entry by entry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from random_networks import team_obs

from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy
from rllib_seqmarl.policies.transfer import Trained, carried_over

D = 8
PLAIN = NetworkConfig(obs_dim=7, action=ActionSpec("discrete", nvec=(3,)), embed_dim=D, n_head=2)


def trained(config: NetworkConfig, n_ids: int = 0) -> Trained:
    return Trained(SequencePolicy, config, n_ids)


def network(config: NetworkConfig, seed: int) -> SequencePolicy:
    """A network whose parameters all differ from initial values and from those of other seeds."""
    torch.manual_seed(seed)
    result = SequencePolicy(config)
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return result


def transfer(old: Trained, new: Trained) -> tuple[SequencePolicy, SequencePolicy, dict[str, torch.Tensor]]:
    """The old network, the new one after the transfer, and the new one's initial parameters."""
    source, target = network(old.config, 0), network(new.config, 1)
    fresh = {name: value.clone() for name, value in target.state_dict().items()}
    target.load_state_dict(carried_over(old, source.state_dict(), new, target.state_dict()))
    return source, target, fresh


MIXERS = [("attention", {}), ("mamba", {"d_state": 4}), ("retention", {}), ("rwkv4", {}), ("rwkv6", {})]


@pytest.mark.parametrize(("mixer", "options"), MIXERS)
def test_equal_teams_get_all_parameters(mixer: str, options: dict[str, Any]) -> None:
    config = replace(PLAIN, encoder_mixer=mixer, decoder_mixer=mixer, mixer_options=options)
    source, target, _ = transfer(trained(config, n_ids=3), trained(config, n_ids=3))
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name
    obs = team_obs(torch.randn(5, 3, 7))
    assert torch.equal(source.act(obs).log_probs, target.act(obs).log_probs)


def test_observation_entries_are_matched_by_meaning() -> None:
    # own, ids, state: 4 + 3 + 2 entries become 5 + 2 + 4
    old = trained(replace(PLAIN, obs_dim=7, state_dim=2), n_ids=3)
    new = trained(replace(PLAIN, obs_dim=7, state_dim=4), n_ids=2)
    source, target, fresh = transfer(old, new)
    places = {0: 0, 1: 1, 2: 2, 3: 3, 5: 4, 6: 5, 7: 7, 8: 8}  # new entry -> old one
    for name, axis in (("0.weight", 0), ("0.bias", 0), ("1.weight", 1)):
        ours, theirs, before = (
            parameters[f"encoder.embedding.{name}"].movedim(axis, 0)
            for parameters in (target.state_dict(), source.state_dict(), fresh)
        )
        for entry in range(11):
            expected = theirs[places[entry]] if entry in places else before[entry]
            assert torch.equal(ours[entry], expected), (name, entry)


def test_choices_are_matched_by_index() -> None:
    old = trained(replace(PLAIN, action=ActionSpec("discrete", nvec=(2, 3))))
    new = trained(replace(PLAIN, action=ActionSpec("discrete", nvec=(3, 2, 2))))
    source, target, fresh = transfer(old, new)
    places = {0: 0, 1: 1, 3: 2, 4: 3}
    for name in ("head.choice_rows", "head.policy.3.weight", "head.policy.3.bias"):
        for choice in range(7):
            there = source.state_dict()[name][places[choice]] if choice in places else fresh[name][choice]
            assert torch.equal(target.state_dict()[name][choice], there), (name, choice)
    assert torch.equal(target.head.start_row, source.head.start_row)


def test_action_dimensions_are_matched_by_index() -> None:
    old = trained(replace(PLAIN, action=ActionSpec("continuous", dim=3)))
    new = trained(replace(PLAIN, action=ActionSpec("continuous", dim=2)))
    source, target, _ = transfer(old, new)
    assert torch.equal(target.head.log_std, source.head.log_std[:2])
    assert torch.equal(target.head.action_embedding.weight, source.head.action_embedding.weight[:, :2])
    assert torch.equal(target.head.policy[3].bias, source.head.policy[3].bias[:2])


def test_larger_team_without_ids_starts_with_the_policy_of_the_smaller_one() -> None:
    """A causal encoder does not read later agents, so a fourth agent does not affect the first three."""
    config = replace(PLAIN, encoder_mixer="rwkv4", decoder_mixer="rwkv4", n_head=1)
    source, target, _ = transfer(trained(config), trained(config))
    obs, actions = torch.randn(6, 4, 7), torch.randint(3, (6, 4))
    alive = torch.tensor([1, 1, 1, 0]).expand(6, 4)
    log_probs, _, values, _ = target.evaluate(team_obs(obs, alive=alive), actions)
    expected, _, expected_values, _ = source.evaluate(team_obs(obs[:, :3]), actions[:, :3])
    torch.testing.assert_close(log_probs[:, :3], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(values[:, :3], expected_values, rtol=0, atol=1e-5)


def test_additional_masked_choices_change_nothing() -> None:
    old, new = trained(PLAIN, n_ids=3), trained(replace(PLAIN, action=ActionSpec("discrete", nvec=(5,))), n_ids=3)
    source, target, _ = transfer(old, new)
    obs, actions = torch.randn(6, 3, 7), torch.randint(3, (6, 3))
    mask = torch.tensor([1, 1, 1, 0, 0]).expand(6, 3, 5)
    masked, plain = target.evaluate(team_obs(obs, mask), actions), source.evaluate(team_obs(obs), actions)
    for ours, theirs in zip(masked[:3], plain[:3], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": 16}, "it has embed_dim=8, but here embed_dim=16. Set embed_dim=8."),
        ({"n_head": 4}, "it has n_head=2, but here n_head=4"),
        ({"n_block": 2}, "it has n_block=1, but here n_block=2"),
        ({"decoder_mixer": "mamba"}, "it has decoder_mixer='attention', but here decoder_mixer='mamba'"),
        ({"action": ActionSpec("continuous", dim=2)}, "its actions are discrete, but here they are continuous"),
        ({"obs_dim": 16 * 16 * 3, "image_shape": (16, 16, 3)}, "it has image_shape=None, but here"),
    ],
)
def test_incompatible_settings_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        transfer(trained(PLAIN), trained(replace(PLAIN, **change)))
    assert message in str(error.value)


def test_mixer_options_are_compared_including_defaults() -> None:
    config = replace(PLAIN, encoder_mixer="mamba", decoder_mixer="mamba", mixer_options={"d_state": 4})
    with pytest.raises(ValueError, match=r"it has mixer_options=\{'d_state': 4.*but here .*'d_state': 5"):
        transfer(trained(config), trained(replace(config, mixer_options={"d_state": 5})))
    transfer(trained(config), trained(replace(config, mixer_options={"d_state": 4, "d_conv": 4})))


def test_missing_parameters_and_wrong_shapes_are_named() -> None:
    weights = network(PLAIN, 0).state_dict()
    with pytest.raises(ValueError, match=r"encoder.value.0.weight has shape \(8, 7\), but here \(8, 8\)"):
        carried_over(trained(PLAIN), weights | {"encoder.value.0.weight": torch.zeros(8, 7)}, trained(PLAIN), weights)
    incomplete = {name: value for name, value in weights.items() if name != "head.start_row"}
    with pytest.raises(ValueError, match=r"it has no parameter head.start_row"):
        carried_over(trained(PLAIN), incomplete, trained(PLAIN), weights)


def test_image_layers_are_kept_and_ids_are_matched_by_agent() -> None:
    with_images = replace(PLAIN, obs_dim=16 * 16 * 3 + 2, image_shape=(16, 16, 3))
    old, new = trained(with_images, n_ids=2), trained(replace(with_images, obs_dim=16 * 16 * 3 + 3), n_ids=3)
    source, target, fresh = transfer(old, new)
    ours, theirs = target.encoder.embedding[1].weight, source.encoder.embedding[1].weight
    assert torch.equal(ours[:, :-1], theirs)
    assert torch.equal(ours[:, -1], fresh["encoder.embedding.1.weight"][:, -1])
    for one, other in zip(target.encoder.image.parameters(), source.encoder.image.parameters(), strict=True):
        assert torch.equal(one, other)
