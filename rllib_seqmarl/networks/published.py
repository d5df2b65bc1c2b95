"""Reads checkpoints of the published MAT (github.com/PKU-MARL/Multi-Agent-Transformer) into our network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rllib_seqmarl.networks.config import ActionSpec, NetworkConfig
from rllib_seqmarl.networks.joint_policy_network import JointPolicyNetwork

# Ours <- theirs, module by module; several of theirs are stacked into one layer of ours.
NAMES = {
    "encoder.embedding.0": ["encoder.obs_encoder.0"],
    "encoder.embedding.1": ["encoder.obs_encoder.1"],
    "encoder.embedding.3": ["encoder.ln"],
    "encoder.value.0": ["encoder.head.0"],
    "encoder.value.2": ["encoder.head.2"],
    "encoder.value.3": ["encoder.head.3"],
    "decoder.norm": ["decoder.ln"],
    "head.policy.0": ["decoder.head.0"],
    "head.policy.2": ["decoder.head.2"],
    "head.policy.3": ["decoder.head.3"],
}
ENCODER_BLOCK = {
    "mixer.query": ["attn.query"],
    "mixer.key_value": ["attn.key", "attn.value"],
    "mixer.proj": ["attn.proj"],
    "mlp.0": ["mlp.0"],
    "mlp.2": ["mlp.2"],
    "norm1": ["ln1"],
    "norm2": ["ln2"],
}
DECODER_BLOCK = {
    "mixer.query": ["attn1.query"],
    "mixer.key_value": ["attn1.key", "attn1.value"],
    "mixer.proj": ["attn1.proj"],
    "cross.query": ["attn2.query"],
    "cross.key_value": ["attn2.key", "attn2.value"],
    "cross.proj": ["attn2.proj"],
    "mlp.0": ["mlp.0"],
    "mlp.2": ["mlp.2"],
    "norm1": ["ln1"],
    "norm2": ["ln2"],
    "norm3": ["ln3"],
}


def load_published_mat(
    state_dict_or_path: Mapping[str, Any] | str | os.PathLike[str], n_head: int = 1
) -> JointPolicyNetwork:
    """Build the network that a published MAT checkpoint describes, in the checkpoint's floating-point type.

    The published ``encoder.state_encoder`` and ``decoder.obs_encoder`` take no part in its forward pass, and
    its ``attn.mask`` are constants: they are left out.

    Args:
        state_dict_or_path: Parameter names to tensors or arrays, or the path of the published ``.pt`` file,
        which
            is read without unpickling code. All other sizes follow from the parameters.
        n_head: Number of attention heads: the one size that leaves no trace in the parameters.

    Raises:
        ValueError: If this is no checkpoint of MAT, or ``n_head`` does not divide its width.
    """
    if isinstance(state_dict_or_path, Mapping):
        source = state_dict_or_path
    else:
        source = torch.load(state_dict_or_path, map_location="cpu", weights_only=True)
    published = {name: torch.as_tensor(value) for name, value in source.items()}
    try:
        config = _config(published, n_head)
        network = JointPolicyNetwork(config).to(published["encoder.ln.weight"].dtype)
        network.load_state_dict(dict(_renamed(published, config)))
    except KeyError as error:
        raise ValueError(f"not a checkpoint of the published MAT: parameter {error} is missing") from error
    except RuntimeError as error:
        raise ValueError(f"not a checkpoint of the published MAT: {error}") from error
    return network


def _config(published: Mapping[str, Tensor], n_head: int) -> NetworkConfig:
    embed_dim, obs_dim = published["encoder.obs_encoder.1.weight"].shape
    width = len(published["decoder.head.3.bias"])
    is_continuous = "decoder.log_std" in published
    action = ActionSpec("continuous", dim=width) if is_continuous else ActionSpec("discrete", nvec=(width,))
    return NetworkConfig(
        obs_dim=obs_dim,
        action=action,
        n_block=len({name.split(".")[2] for name in published if name.startswith("decoder.blocks.")}),
        n_head=n_head,
        embed_dim=embed_dim,
    )


def _renamed(published: Mapping[str, Tensor], config: NetworkConfig) -> Iterator[tuple[str, Tensor]]:
    names = dict(NAMES)
    for i in range(config.n_block):
        for part, block in (("encoder", ENCODER_BLOCK), ("decoder", DECODER_BLOCK)):
            prefix = f"{part}.blocks.{i}."
            names |= {prefix + ours: [prefix + name for name in theirs] for ours, theirs in block.items()}
    if config.action.kind == "continuous":
        names["head.action_embedding"] = ["decoder.action_encoder.0"]
        yield "head.log_std", published["decoder.log_std"]
    else:
        # (d, 1 + width): a column for the start flag, then one for each choice.
        table = published["decoder.action_encoder.0.weight"].T
        yield "head.start_row", table[0]
        yield "head.choice_rows", table[1:]
    for ours, theirs in names.items():
        for kind in ("weight", "bias"):
            yield f"{ours}.{kind}", torch.cat([published[f"{name}.{kind}"] for name in theirs])
