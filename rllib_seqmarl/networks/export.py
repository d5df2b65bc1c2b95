"""Saves a network so that it loads without unpickling: weights as safetensors, their meaning as JSON."""

from __future__ import annotations

import hashlib
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

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)  # version 1 had no checksums
_NETWORK, _EXTRA = "network.", "extra."
_WEIGHTS_SUM = "weights_sha256"
# The JSON file's own checksum, over its bytes with the checksum itself replaced by zeros.
_OWN_SUM = "sha256"
_ZEROS = "0" * 64


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
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    content = {
        "format_version": FORMAT_VERSION,
        "rllib_seqmarl_version": __version__,
        # The backend stays behind: the machine that loads the file may have other libraries and devices.
        "network": replace(network.config, backend=AUTO).to_dict(),
        **(
            {"mixer_modules": modules}
            if (modules := modules_of(network.config.encoder_mixer, network.config.decoder_mixer))
            else {}
        ),
        **(description or {}),
        _WEIGHTS_SUM: hashlib.sha256(weights).hexdigest(),
        _OWN_SUM: _ZEROS,
    }
    unsealed = json.dumps(content, indent=2).encode()
    description_file, weights_file = _with_ending(path, "json"), _with_ending(path, "safetensors")
    _replace({weights_file: weights, description_file: _with_sum(unsealed, hashlib.sha256(unsealed).hexdigest())})


def load_network(
    path: str | os.PathLike[str],
) -> tuple[JointPolicyNetwork, dict[str, Tensor], dict[str, Any]]:
    """The network, the extra tensors and the description that `save_network` wrote; nothing is unpickled.

    Raises:
        ExportError: A file is missing, damaged or of another format version, or the two do not fit together.
    """
    description_file, weights_file = _with_ending(path, "json"), _with_ending(path, "safetensors")
    description = _read_description(description_file)
    try:
        content = weights_file.read_bytes()
        tensors = load(content)
    except FileNotFoundError:
        raise ExportError(f"{weights_file} is missing; it belongs next to {description_file.name}.") from None
    except SafetensorError as error:
        raise ExportError(f"{weights_file} is damaged or cut short ({error}). Copy or save it again.") from None
    if description.get(_WEIGHTS_SUM, digest := hashlib.sha256(content).hexdigest()) != digest:
        raise ExportError(
            f"{weights_file} is not the file that {description_file.name} was saved with (its SHA-256 differs): it is "
            f"damaged or belongs to another policy. Copy or save both files again."
        )
    weights = _taken(tensors, _NETWORK)
    try:
        network = JointPolicyNetwork(NetworkConfig.from_dict(description["network"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        modules = description.get("mixer_modules")
        named = " and ".join(map(repr, modules)) if isinstance(modules, list) else ""
        hint = f" Its mixers are defined in {named}." if named else ""
        raise ExportError(f"{description_file}: 'network' describes no network: {error}{hint}") from None
    network.to(next(iter(weights.values())).dtype if weights else None)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ExportError(
            f"{weights_file} does not hold the weights of the network that {description_file.name} describes; keep the "
            f"two files of one export together. ({str(error).splitlines()[-1].strip()})"
        ) from None
    return network, _taken(tensors, _EXTRA), description


def _read_description(file: Path) -> dict[str, Any]:
    try:
        content = file.read_bytes()
        description = json.loads(content)
        version = description["format_version"]
    except FileNotFoundError:
        raise ExportError(f"{file} is missing: there is no exported policy of that name.") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ExportError(f"{file} is damaged, or no description of a policy. Copy or save it again.") from None
    if version not in READABLE_VERSIONS:
        raise ExportError(
            f"{file} has format version {version}; this is rllib_seqmarl {__version__}, which reads versions "
            f"{', '.join(map(str, READABLE_VERSIONS))}. Load it with the version of rllib_seqmarl that wrote it: "
            f"{description.get('rllib_seqmarl_version', 'unknown')}."
        )
    if version > 1 or _OWN_SUM in description:
        found = str(description.get(_OWN_SUM))
        unsealed = content.replace(found.encode(), _ZEROS.encode())
        if _WEIGHTS_SUM not in description or hashlib.sha256(unsealed).hexdigest() != found:
            raise ExportError(f"{file} has changed since it was saved (its SHA-256 differs). Copy or save it again.")
    return description


def _with_sum(unsealed: bytes, digest: str) -> bytes:
    """The JSON text with its checksum, its last entry, in place of the zeros."""
    head, tail = unsealed.rsplit(_ZEROS.encode(), 1)
    return head + digest.encode() + tail


def _taken(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _with_ending(path: str | os.PathLike[str], ending: str) -> Path:
    path = Path(path)
    return path.with_name(f"{path.name}.{ending}")


def _replace(contents: Mapping[Path, bytes]) -> None:
    """Writes all of the files before it replaces the first one: an error while writing leaves the old files."""
    unfinished = {file: file.with_name(file.name + ".tmp") for file in contents}
    try:
        for file, content in contents.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            unfinished[file].write_bytes(content)
        for file, written in unfinished.items():
            written.replace(file)
    finally:
        for written in unfinished.values():
            written.unlink(missing_ok=True)
