"""Network configurations survive a JSON round trip, and invalid values raise helpful errors."""

import json

import pytest

from rllib_seqmarl.policies import ActionSpec, NetworkConfig


@pytest.mark.parametrize(
    ("spec", "width", "action_shape"),
    [
        (ActionSpec("discrete", nvec=(7,)), 7, ()),
        (ActionSpec("discrete", nvec=(5, 10)), 15, (2,)),
        (ActionSpec("continuous", dim=3), 3, (3,)),
    ],
)
def test_sizes_and_round_trip(spec, width, action_shape):
    assert (spec.width, spec.action_shape) == (width, action_shape)
    config = NetworkConfig(
        obs_dim=4,
        action=spec,
        n_block=2,
        n_head=4,
        decoder_mixer="mamba",
        mixer_options={"d_state": 3, "dt_rank": "auto"},
    )
    assert NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"embed_dim": 30, "n_head": 4},
            "embed_dim=30 cannot be split among n_head=4 heads; .* multiple of 4",
        ),
        ({"n_block": 0}, "n_block must be an integer >= 1, not 0"),
        (
            {"encoder_mixer": "mamba", "mixer_options": {"d_sate": 3}},
            "'d_sate' is not an option of encoder_mixer='mamba' or decoder_mixer='attention'. Did you mean 'd_state'",
        ),
        ({"encoder_mixer": "mamba", "mixer_options": {"d_conv": 0}}, "d_conv must be an integer >= 1, not 0"),
        ({"encoder_mixer": "rwkv4", "encoder_directions": 3}, "encoder_directions must be 1 or 2, not 3"),
        ({"encoder_directions": 2}, "encoder_directions=2 has no effect on encoder_mixer='attention'"),
        ({"decoder_cross": "none"}, "decoder_cross must be 'mixer' or 'addition', not 'none'"),
        (
            {"decoder_mixer": "mamba", "backend": "numbra"},
            "unknown backend='numbra'. Did you mean 'numba'",
        ),
        ({"obs_dim": 2.5}, "obs_dim must be an integer >= 1, not 2.5"),
        ({"decoder_mixer": "atention"}, "unknown decoder_mixer 'atention'. Did you mean 'attention'?"),
    ],
)
def test_invalid_values_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        NetworkConfig(**{"obs_dim": 4, "action": ActionSpec("discrete", nvec=(3,)), **changes})


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "discrete"},
        {"kind": "discrete", "nvec": (3, 0)},
        {"kind": "discrete", "nvec": (3,), "dim": 1},
        {"kind": "continuous"},
        {"kind": "continuous", "dim": 2, "nvec": (3,)},
        {"kind": "real", "dim": 2},
    ],
)
def test_invalid_actions_are_rejected(arguments):
    with pytest.raises(ValueError, match="ActionSpec"):
        ActionSpec(**arguments)


@pytest.mark.parametrize("data", [{}, {"obs_dim": 4}, {"obs_dim": 4, "action": {"kind": "discrete"}, "depth": 2}])
def test_foreign_descriptions_are_rejected(data):
    with pytest.raises(ValueError):
        NetworkConfig.from_dict(data)
