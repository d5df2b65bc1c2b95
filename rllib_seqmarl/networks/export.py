"""Saves a network so that it loads without unpickling: weights as safetensors, their meaning as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rllib_seqmarl.mixers import modules_of
from rllib_seqmarl.networks.config import NetworkConfig
from rllib_seqmarl.networks.joint_policy_network import JointPolicyNetwork
from rllib_seqmarl.ops.backends import AUTO
from rllib_seqmarl.version import __version__

FORMAT_VERSION = 1
_NETWORK, _EXTRA = "network.", "extra."


class ExportError(ValueError):
    """Files that hold no network, or not all of it; the message says which and what to do."""


def save_network(
    path: str | os.PathLike[str],
    network: JointPolicyNetwork,
    extra: Mapping[str, Tensor] | None = None,
    description: Mapping[str, Any] | None = None,
) -> None:
    """Writes `path`.safetensors and `path`.json.

    Args:
        path: The files' place and name, without ending.
        network: What to save.
        extra: Further tensors to keep with the weights.
        description: Further JSON values to keep with the network's configuration.
    """
    tensors = {_NETWORK + name: tensor for name, tensor in network.state_dict().items()}
    tensors |= {_EXTRA + name: tensor for name, tensor in (extra or {}).items()}
    content = {
        "format_version": FORMAT_VERSION,
        "rllib_seqmarl_version": __version__,
        # How it is computed is not part of what it is: whoever loads it may have other libraries and devices.
        "network": replace(network.config, backend=AUTO).to_dict(),
        **(
            {"mixer_modules": modules}
            if (modules := modules_of(network.config.encoder_mixer, network.config.decoder_mixer))
            else {}
        ),
        **(description or {}),
    }
    _replace(_with_ending(path, "json"), json.dumps(content, indent=2).encode())
    _replace(
        _with_ending(path, "safetensors"),
        save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}),
    )


def load_network(
    path: str | os.PathLike[str],
) -> tuple[JointPolicyNetwork, dict[str, Tensor], dict[str, Any]]:
    """The network, the extra tensors and the description that `save_network` wrote; nothing is unpickled.

    Raises:
        ExportError: A file is missing, damaged or of another format version, or the two do not fit together.
    """
    description = _read_description(_with_ending(path, "json"))
    weights_file = _with_ending(path, "safetensors")
    try:
        tensors = load(weights_file.read_bytes())
    except FileNotFoundError:
        raise ExportError(f"{weights_file} is missing; it belongs beside the .json file.") from None
    except SafetensorError as error:
        raise ExportError(f"{weights_file} is damaged or cut short ({error}). Copy or save it anew.") from None
    weights = _taken(tensors, _NETWORK)
    try:
        network = JointPolicyNetwork(NetworkConfig.from_dict(description["network"]))
    except (ValueError, KeyError) as error:
        modules = description.get("mixer_modules")
        hint = f" Import {' and '.join(map(repr, modules))} first, which defined its mixers." if modules else ""
        raise ExportError(f"the .json file beside {weights_file} describes no network: {error}{hint}") from None
    network.to(next(iter(weights.values())).dtype if weights else None)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ExportError(
            f"{weights_file} does not hold the weights of the network in the .json file beside it; keep "
            f"the two files of one export together. ({str(error).splitlines()[-1].strip()})"
        ) from None
    return network, _taken(tensors, _EXTRA), description


def _read_description(file: Path) -> dict[str, Any]:
    try:
        description = json.loads(file.read_text())
        version = description["format_version"]
    except FileNotFoundError:
        raise ExportError(f"{file} is missing: there is no exported policy of that name.") from None
    except (ValueError, KeyError, TypeError):
        raise ExportError(f"{file} is damaged, or no description of a policy. Copy or save it anew.") from None
    if version != FORMAT_VERSION:
        raise ExportError(
            f"{file} has format version {version}; this is rllib_seqmarl {__version__}, which reads version "
            f"{FORMAT_VERSION}. Load it with rllib_seqmarl "
            f"{description.get('rllib_seqmarl_version', 'of its time')}."
        )
    return description


def _taken(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _with_ending(path: str | os.PathLike[str], ending: str) -> Path:
    path = Path(path)
    return path.with_name(f"{path.name}.{ending}")


def _replace(file: Path, content: bytes) -> None:
    """Writes a whole file or none: a fault in the middle leaves what was there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(file.name + ".tmp")
    unfinished.write_bytes(content)
    unfinished.replace(file)
