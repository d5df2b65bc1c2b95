"""Conversion of checkpoints of the published MAT and MARWKV to this package's sequence policy.

MAT is github.com/PKU-MARL/Multi-Agent-Transformer; MARWKV, version 4, has the same structure with RWKV-4 mixers.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rllib_seqmarl.networks.config import NetworkConfig
from rllib_seqmarl.networks.policy_config import ActionSpec
from rllib_seqmarl.policies.sequence import SequencePolicy

Names = Mapping[str, list[str]]  # our name -> published names, which are stacked if there are several

SHARED: Names = {
    "encoder.embedding.0": ["encoder.obs_encoder.0"],
    "encoder.embedding.1": ["encoder.obs_encoder.1"],
    "encoder.embedding.3": ["encoder.ln"],
    "encoder.value.0": ["encoder.head.0"],
    "encoder.value.2": ["encoder.head.2"],
    "encoder.value.3": ["encoder.head.3"],
    "head.policy.0": ["decoder.head.0"],
    "head.policy.2": ["decoder.head.2"],
    "head.policy.3": ["decoder.head.3"],
    "head.action_embedding": ["decoder.action_encoder.0"],
}


@dataclass(frozen=True)
class Published:
    """The parameter names of a published architecture.

    Attributes:
        name: Name of the architecture.
        blocks: Names of blocks up to the index, after "encoder." and "decoder.".
        encoder_block: Names of modules and other parameters in an encoder block.
        decoder_block: The same in a decoder block.
        norms: Names of the encoder's and the decoder's own norms. The encoder's, if any, follows the last block.
        settings: Settings of the network's configuration.
    """

    name: str
    blocks: str
    encoder_block: Names
    decoder_block: Names
    norms: tuple[str | None, str]
    settings: Mapping[str, Any] = field(default_factory=dict)


def _attention(ours: str, theirs: str) -> Names:
    return {
        f"{ours}.query": [f"{theirs}.query"],
        f"{ours}.key_value": [f"{theirs}.key", f"{theirs}.value"],
        f"{ours}.proj": [f"{theirs}.proj"],
    }


MLP: Names = {"mlp.0": ["mlp.0"], "mlp.2": ["mlp.2"], "norm1": ["ln1"], "norm2": ["ln2"]}
MAT = Published(
    name="MAT",
    blocks="blocks.",
    encoder_block={**_attention("mixer", "attn"), **MLP},
    decoder_block={**_attention("mixer", "attn1"), **_attention("cross", "attn2"), **MLP, "norm3": ["ln3"]},
    norms=(None, "decoder.ln"),
)

RWKV4_BLOCK: Names = {
    "time.projections": ["attn.key_proj", "attn.value_proj", "attn.receptance_proj"],
    "time.output": ["attn.output_proj"],
    "time.decay": ["attn.time_decay"],
    "time.bonus": ["attn.time_first"],
    "time.mix": ["attn.time_mix_key", "attn.time_mix_value", "attn.time_mix_receptance"],
    "channel.key": ["ffn.key_proj"],
    "channel.receptance": ["ffn.receptance_proj"],
    "channel.value": ["ffn.value_proj"],
    "channel.mix": ["ffn.time_mix_key", "ffn.time_mix_receptance"],
    "norm1": ["ln_1"],
    "norm2": ["ln_2"],
}
MARWKV = Published(
    name="MARWKV",
    blocks="rwkv.rwkv.h.",
    encoder_block=RWKV4_BLOCK,
    decoder_block=RWKV4_BLOCK,
    norms=("encoder.rwkv.rwkv.ln_f", "decoder.rwkv.rwkv.ln_f"),
    settings={"encoder_mixer": "rwkv4", "decoder_mixer": "rwkv4"},
)


def load_published_mat(
    state_dict_or_path: Mapping[str, Any] | str | os.PathLike[str], n_head: int = 1
) -> SequencePolicy:
    """Build the network of a published MAT checkpoint, in the checkpoint's floating-point type.

    The published ``encoder.state_encoder`` and ``decoder.obs_encoder``, which its forward pass does not use, and
    its constants ``attn.mask`` are ignored.

    Args:
        state_dict_or_path: Parameter names to tensors or arrays, or the path of the published ``.pt`` file, which
            is read without unpickling code. All other sizes follow from the parameters.
        n_head: Number of attention heads, the only size that cannot be inferred from the parameters.

    Raises:
        ValueError: This is not a checkpoint of MAT, or ``n_head`` does not divide its width.
    """
    return _load(MAT, state_dict_or_path, n_head)


def load_published_marwkv(state_dict_or_path: Mapping[str, Any] | str | os.PathLike[str]) -> SequencePolicy:
    """Build the network of a published MARWKV checkpoint (version 4), in the checkpoint's floating-point type.

    The published ``encoder.state_encoder``, ``decoder.obs_encoder`` and ``decoder.ln`` are ignored; its forward pass
    does not use them.

    Args:
        state_dict_or_path: Parameter names to tensors or arrays, or the path of the published ``.pt`` file, which
            is read without unpickling code.

    Raises:
        ValueError: This is not a checkpoint of MARWKV.
    """
    return _load(MARWKV, state_dict_or_path, n_head=1)


def _load(
    architecture: Published, state_dict_or_path: Mapping[str, Any] | str | os.PathLike[str], n_head: int
) -> SequencePolicy:
    if isinstance(state_dict_or_path, Mapping):
        source = state_dict_or_path
    else:
        source = torch.load(state_dict_or_path, map_location="cpu", weights_only=True)
    published = {name: torch.as_tensor(value) for name, value in source.items()}
    try:
        config = _infer_config(architecture, published, n_head)
        network = SequencePolicy(config).to(published["encoder.ln.weight"].dtype)
        network.load_state_dict(dict(_convert(architecture, published, config, list(network.state_dict()))))
    except KeyError as error:
        raise ValueError(
            f"not a checkpoint of the published {architecture.name}: parameter {error} is missing"
        ) from error
    except RuntimeError as error:
        raise ValueError(f"not a checkpoint of the published {architecture.name}: {error}") from error
    return network


def _infer_config(architecture: Published, published: Mapping[str, Tensor], n_head: int) -> NetworkConfig:
    embed_dim, obs_dim = published["encoder.obs_encoder.1.weight"].shape
    width = len(published["decoder.head.3.bias"])
    is_continuous = "decoder.log_std" in published
    action = ActionSpec("continuous", dim=width) if is_continuous else ActionSpec("discrete", nvec=(width,))
    prefix = f"decoder.{architecture.blocks}"
    blocks = {name.removeprefix(prefix).split(".")[0] for name in published if name.startswith(prefix)}
    if not blocks:
        raise KeyError(f"{prefix}0")
    return NetworkConfig(
        obs_dim=obs_dim,
        action=action,
        n_block=len(blocks),
        n_head=n_head,
        embed_dim=embed_dim,
        **architecture.settings,
    )


def _convert(
    architecture: Published, published: Mapping[str, Tensor], config: NetworkConfig, ours: list[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters named ``ours``, converted from the published ones."""
    names = {**SHARED, "decoder.norm": [architecture.norms[1]]}
    if architecture.norms[0] is not None:
        names[f"encoder.blocks.{config.n_block}"] = [architecture.norms[0]]
    for part, block in (("encoder", architecture.encoder_block), ("decoder", architecture.decoder_block)):
        for i in range(config.n_block):
            theirs = f"{part}.{architecture.blocks}{i}."
            names |= {f"{part}.blocks.{i}.{name}": [theirs + x for x in xs] for name, xs in block.items()}
    for name in ours:
        module, _, kind = name.rpartition(".")
        match name:
            case "head.log_std":
                yield name, published["decoder.log_std"]
            # (d, 1 + width): a column for the start flag, then one per choice.
            case "head.start_row":
                yield name, published["decoder.action_encoder.0.weight"].T[0]
            case "head.choice_rows":
                yield name, published["decoder.action_encoder.0.weight"].T[1:]
            case _ if name in names and kind == "mix":  # a row each; ours weigh the previous token, theirs the current
                yield name, 1 - torch.cat([published[x].view(1, -1) for x in names[name]])
            case _ if name in names:  # no part of a layer
                yield name, torch.cat([published[x] for x in names[name]])
            case _:
                yield name, torch.cat([published[f"{x}.{kind}"] for x in names[module]])
