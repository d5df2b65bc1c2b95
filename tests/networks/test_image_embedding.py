"""Image embeddings compute convolutions, and their settings are part of the network's configuration."""

import json

import pytest
import torch
from random_networks import team_obs

from rllib_seqmarl.networks.image_embedding import NATURE, SMALL, ImageEmbedding, default_filters, feature_shape
from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy
from rllib_seqmarl.policies.export import load_network, save_network

ACTION = ActionSpec("discrete", nvec=(3,))


def image_config(height=16, width=20, channels=2, rest=3, **changes) -> NetworkConfig:
    return NetworkConfig(
        **{
            "obs_dim": height * width * channels + rest,
            "action": ACTION,
            "embed_dim": 8,
            "image_shape": (height, width, channels),
            **changes,
        }
    )


def test_layers_convolve_images_and_other_entries_pass_through():
    torch.manual_seed(0)
    height, width, channels, kernel, stride = 7, 9, 2, 3, 2
    embedding = ImageEmbedding((height, width, channels), ((4, kernel, stride),)).double()
    obs = torch.randint(256, (2, 3, height * width * channels + 5), dtype=torch.uint8)
    weight, bias = embedding.layers[0].weight, embedding.layers[0].bias
    bias.data.normal_()
    image = obs[1, 2, : height * width * channels].reshape(height, width, channels) / 255.0
    rows, columns = 3, 4
    expected = torch.zeros(4, rows, columns, dtype=torch.float64)
    for channel in range(4):
        for row in range(rows):
            for column in range(columns):
                patch = image[row * stride : row * stride + kernel, column * stride : column * stride + kernel]
                product = (patch.double() * weight[channel].permute(1, 2, 0)).sum()
                expected[channel, row, column] = torch.relu(product + bias[channel])
    embedded = embedding(obs)
    assert embedded.shape == (2, 3, embedding.out_features + 5)
    torch.testing.assert_close(embedded[1, 2, :-5], expected.flatten(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(embedded[1, 2, -5:], obs[1, 2, -5:].double(), rtol=0, atol=0)


def test_weights_are_orthogonal_with_relu_gain():
    for layer in ImageEmbedding((84, 84, 4), NATURE).layers[::2]:
        rows = layer.weight.detach().flatten(1)
        torch.testing.assert_close(rows @ rows.T, 2.0 * torch.eye(len(rows)), atol=1e-4, rtol=0)
        assert not layer.bias.any()


@pytest.mark.parametrize("shape", [(84, 84, 4), (64, 64, 2), (36, 96, 1)])
def test_atari_sized_images_get_the_nature_layers(shape):
    assert default_filters(shape) == NATURE


def test_nature_layers_have_the_published_output_shape():
    assert feature_shape((84, 84, 4), NATURE) == (7, 7, 64)  # the 3136 inputs of Mnih et al.'s next layer


@pytest.mark.parametrize("height", [8, 9, 16, 35, 36, 50, 96, 97, 280, 457, 720])
@pytest.mark.parametrize("width", [8, 20, 36, 84, 120, 480, 1280])
def test_default_layers_fit_all_images_from_eight_pixels(height, width):
    filters = default_filters((height, width, 3))
    rows, columns, channels = feature_shape((height, width, 3), filters)
    assert filters[-len(SMALL) :] == SMALL or filters[-len(NATURE) :] == NATURE
    assert rows >= 1 and columns >= 1 and channels == 64
    assert ImageEmbedding((height, width, 3), filters)(torch.zeros(1, 1, height * width * 3)).shape[-1] == (
        rows * columns * channels
    )


def test_act_and_evaluate_agree_on_images():
    torch.manual_seed(0)
    network = SequencePolicy(image_config()).double()
    obs = team_obs(torch.randint(256, (2, 3, network.config.obs_dim), dtype=torch.uint8))
    actions, log_probs, values, *_ = network.act(obs, deterministic=False)
    evaluated, _, again, _ = network.evaluate(obs, actions)
    torch.testing.assert_close(evaluated, log_probs, atol=1e-10, rtol=0)
    torch.testing.assert_close(again, values, atol=1e-10, rtol=0)
    evaluated.sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.encoder.image.parameters())


def test_round_trip(tmp_path):
    config = image_config(conv_filters=[[4, 5, 3]])
    assert NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    hash(config)
    network = SequencePolicy(config)
    save_network(tmp_path / "team", network)
    loaded, _, _ = load_network(tmp_path / "team")
    obs = team_obs(torch.randint(256, (2, 3, config.obs_dim), dtype=torch.uint8))
    assert loaded.config == config
    assert all(map(torch.equal, loaded.act(obs)[:3], network.act(obs)[:3]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (16, 20)}, r"image_shape=\(16, 20\) must be \(height, width, channels\)"),
        ({"image_shape": (16, 20, 0)}, "must be"),
        ({"image_shape": (16, 20, 3)}, "with at most obs_dim=643 numbers"),
        ({"image_shape": (7, 91, 1)}, "too small for conv_filters=.*, the default for small images; use"),
        ({"conv_filters": [[16, 8, 4], [32, 4, 2]]}, r"small for conv_filters=\[\[16, 8, 4\], \[32, 4, 2\]\]; use"),
        ({"conv_filters": []}, "conv_filters=.* is not .*integers >= 1, such as"),
        ({"conv_filters": [[16, 8]]}, "conv_filters=.* is not"),
        ({"conv_filters": [[16, 8, 0]]}, "conv_filters=.* is not"),
        ({"conv_filters": 3}, "conv_filters=3 is not"),
        ({"conv_filters": [[16, 4, 2]], "image_shape": None}, "conv_filters has no effect unless all agents"),
    ],
)
def test_invalid_values_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        image_config(**changes)
