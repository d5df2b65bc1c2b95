"""Saving and loading of policies without pickle: weights as safetensors, configuration as JSON."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rllib_seqmarl.mixers import MIXERS
from rllib_seqmarl.networks.action_heads import HEADS
from rllib_seqmarl.ops.backends import AUTO
from rllib_seqmarl.policies import POLICIES, Policy
from rllib_seqmarl.version import __version__

FORMAT_VERSION = 3
READABLE_VERSIONS = (1, 2, 3)  # version 1 has no checksums; 1 and 2 have only sequence policies
_NETWORK, _EXTRA = "network.", "extra."
_WEIGHTS_SUM = "weights_sha256"
# Checksum of the JSON file itself, over its bytes with the checksum replaced by zeros.
_OWN_SUM = "sha256"
_ZEROS = "0" * 64


class ExportError(ValueError):
    """Raised for files that do not contain a complete policy; the message names the file and a remedy."""


def save_network(
    path: str | os.PathLike[str],
    network: Policy,
    extra: Mapping[str, Tensor] | None = None,
    description: Mapping[str, Any] | None = None,
) -> None:
    """Write `path`.safetensors and `path`.json.

    Args:
        path: Path of the files without suffix.
        network: The policy to save.
        extra: Additional tensors to store with the weights.
        description: Additional JSON values to store with the policy's configuration.
    """
    tensors = {_NETWORK + name: tensor for name, tensor in network.state_dict().items()}
    tensors |= {_EXTRA + name: tensor for name, tensor in (extra or {}).items()}
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    config = network.config.to_dict()
    # Without the backend: the machine that loads the file may have other libraries and devices.
    content = {
        "format_version": FORMAT_VERSION,
        "rllib_seqmarl_version": __version__,
        "policy": POLICIES.name_of(type(network)),
        "network": {**config, **({"backend": AUTO} if "backend" in config else {})},
        **({"mixer_modules": modules} if (modules := _modules(network)) else {}),
        **(description or {}),
        _WEIGHTS_SUM: hashlib.sha256(weights).hexdigest(),
        _OWN_SUM: _ZEROS,
    }
    unsigned = json.dumps(content, indent=2).encode()
    description_file, weights_file = _with_suffix(path, "json"), _with_suffix(path, "safetensors")
    _replace({weights_file: weights, description_file: _with_checksum(unsigned, hashlib.sha256(unsigned).hexdigest())})


def load_network(path: str | os.PathLike[str]) -> tuple[Policy, dict[str, Tensor], dict[str, Any]]:
    """Load the policy, the extra tensors and the description written by `save_network`; nothing is unpickled.

    Raises:
        ExportError: A file is missing, damaged or of another format version, or the two do not match.
    """
    description_file, weights_file = _with_suffix(path, "json"), _with_suffix(path, "safetensors")
    description = _read_description(description_file)
    try:
        content = weights_file.read_bytes()
        tensors = load(content)
    except FileNotFoundError:
        raise ExportError(f"{weights_file} is missing; it must be next to {description_file.name}.") from None
    except SafetensorError as error:
        raise ExportError(f"{weights_file} is damaged or truncated ({error}). Copy or save it again.") from None
    if description.get(_WEIGHTS_SUM, digest := hashlib.sha256(content).hexdigest()) != digest:
        raise ExportError(
            f"{weights_file} is not the file that was saved with {description_file.name} (its SHA-256 differs): it is "
            f"damaged or belongs to another policy. Copy or save both files again."
        )
    weights = _select_prefix(tensors, _NETWORK)
    try:
        policy = POLICIES.find("policy", description["policy"])
        network = policy(policy.Config.from_dict(description["network"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        modules = description.get("mixer_modules")
        named = " and ".join(map(repr, modules)) if isinstance(modules, list) else ""
        hint = f" Its parts are defined in {named}." if named else ""
        raise ExportError(f"{description_file}: 'network' is not a valid network: {error}{hint}") from None
    network.to(next((weight.dtype for weight in weights.values() if weight.is_floating_point()), None))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ExportError(
            f"{weights_file} does not contain the weights of the network described in {description_file.name}; keep "
            f"the two files of an export together. ({str(error).splitlines()[-1].strip()})"
        ) from None
    return network, _select_prefix(tensors, _EXTRA), description


def _read_description(file: Path) -> dict[str, Any]:
    try:
        content = file.read_bytes()
        description = json.loads(content)
        version = description["format_version"]
    except FileNotFoundError:
        raise ExportError(f"{file} is missing: there is no exported policy with this name.") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ExportError(f"{file} is damaged or not a policy description. Copy or save it again.") from None
    if version not in READABLE_VERSIONS:
        raise ExportError(
            f"{file} has format version {version}, but rllib_seqmarl {__version__} reads versions "
            f"{', '.join(map(str, READABLE_VERSIONS))}. Load it with the version of rllib_seqmarl that wrote it: "
            f"{description.get('rllib_seqmarl_version', 'unknown')}."
        )
    if version > 1 or _OWN_SUM in description:
        checksum = str(description.get(_OWN_SUM))
        unsigned = content.replace(checksum.encode(), _ZEROS.encode())
        if _WEIGHTS_SUM not in description or hashlib.sha256(unsigned).hexdigest() != checksum:
            raise ExportError(f"{file} has changed since it was saved (its SHA-256 differs). Copy or save it again.")
    return description if version > 2 else _upgraded(description)


def _upgraded(description: dict[str, Any]) -> dict[str, Any]:
    """Convert a description of version 1 or 2, whose `obs_dim` includes the global state."""
    network, layout, deployment = (description.get(key) for key in ("network", "layout", "deployment"))
    if isinstance(network, dict) and isinstance(layout, dict) and isinstance(network.get("obs_dim"), int):
        state_dim = layout.get("state_dim") if isinstance(layout.get("state_dim"), int) else 0
        network |= {"obs_dim": network["obs_dim"] - state_dim, "state_dim": state_dim}
    if isinstance(deployment, dict) and isinstance(deployment.get("joint_options"), dict):
        deployment["joint_options"].pop("agent_order", None)  # only while training; exported policies had a fixed order
    return {"policy": "sequence", **description}


def _modules(network: Policy) -> list[str]:
    """The modules outside this package that define the policy and its parts."""
    mixers = [getattr(network.config, key, "") for key in ("encoder_mixer", "decoder_mixer")]
    parts = MIXERS.modules_of(*mixers) | HEADS.modules_of(getattr(network.config, "head", ""))
    return sorted(parts | POLICIES.modules_of(POLICIES.name_of(type(network))))


def _with_checksum(unsigned: bytes, digest: str) -> bytes:
    """Insert the checksum, the last entry, into the JSON text in place of the zeros."""
    head, tail = unsigned.rsplit(_ZEROS.encode(), 1)
    return head + digest.encode() + tail


def _select_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _with_suffix(path: str | os.PathLike[str], suffix: str) -> Path:
    path = Path(path).expanduser()
    return path.with_name(f"{path.name}.{suffix}")


def _replace(contents: Mapping[Path, bytes]) -> None:
    """Write all files before replacing the first one, so that an error while writing keeps the old files."""
    temporary = {file: file.with_name(file.name + ".tmp") for file in contents}
    try:
        for file, content in contents.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary[file].write_bytes(content)
        for file, written in temporary.items():
            written.replace(file)
    finally:
        for written in temporary.values():
            written.unlink(missing_ok=True)
