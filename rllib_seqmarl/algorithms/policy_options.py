"""A policy's options as keywords of a config's `network` method: signature, documentation, reserved names."""

from __future__ import annotations

import inspect
import textwrap
from functools import wraps
from typing import TYPE_CHECKING, Any

from ray.rllib.algorithms.algorithm_config import NotProvided

from rllib_seqmarl.algorithms.unused_options import RETIRED_OPTIONS, UNUSED_OPTIONS
from rllib_seqmarl.networks.policy_config import RESERVED

if TYPE_CHECKING:
    from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig

_PLACEHOLDER = "    **options: The policy's options."


def document_options(config_class: type[JointPPOConfig]) -> None:
    """Give a config class a `network` method that shows the options of its policy as keywords."""
    function: Any = inspect.unwrap(config_class.network)
    options = config_class.declared_options(config_class.default_policy)
    signature = inspect.signature(function, eval_str=True)
    *own, rest = signature.parameters.values()
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=NotProvided, annotation=option.kind)
        for name, option in options.items()
    ]
    entries = [
        textwrap.fill(f"{name}: {option.text}", 112, initial_indent=" " * 4, subsequent_indent=" " * 8)
        for name, option in options.items()
    ]

    @wraps(function)
    def network(self: Any, **kwargs: Any) -> Any:
        return function(self, **kwargs)

    doc = inspect.cleandoc(function.__doc__ or "")
    network.__doc__ = doc.replace(_PLACEHOLDER, "\n".join([*entries, "    **options: Those of another policy."]))
    network.__signature__ = signature.replace(parameters=[*own, *keywords, rest])  # type: ignore[attr-defined]
    config_class.network = network  # type: ignore[method-assign]


def reserve_names(config: JointPPOConfig) -> None:
    """Let no policy have options with the names of a config's other attributes, which both would then set."""
    names = {*dir(config), *RETIRED_OPTIONS, *UNUSED_OPTIONS, "deployment"}
    RESERVED.update(names - config._options.keys())
