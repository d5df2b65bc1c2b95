"""The registry of policies. To add a built-in policy, add a file to this folder and an entry here."""

from rllib_seqmarl.mixers.base import reset_state
from rllib_seqmarl.networks.config import NetworkConfig
from rllib_seqmarl.networks.policy_config import ActionSpec, PolicyConfig
from rllib_seqmarl.networks.value_normalizer import ValueNormalizer
from rllib_seqmarl.policies.base import Decision, Evaluation, Policy, SeparatePolicy
from rllib_seqmarl.policies.independent import IndependentConfig, IndependentPolicy
from rllib_seqmarl.policies.sable import RetentionPolicyConfig, SablePolicy
from rllib_seqmarl.policies.sequence import SequencePolicy
from rllib_seqmarl.registration import Registry

POLICIES: Registry[type[Policy]] = Registry(
    "policy", {"sequence": SequencePolicy, "independent": IndependentPolicy, "sable": SablePolicy}
)


def register_policy(name: str, policy: type[Policy]) -> None:
    """Register a policy under a name, for `config.network(policy=name)`.

    The registration also applies to env runners and learners in other processes. Experiment files list the module that
    calls this function in `mixer_modules`; import that module before loading a saved policy.

    Args:
        name: The name.
        policy: A class that derives from `Policy`, is made from its `Config`, and declares its options there.

    Raises:
        ValueError: The name is taken by another policy, or is not a non-empty string; or an option has a reserved name.
        TypeError: `policy` is not a policy class, or its `Config` is not a dataclass.
    """
    if not (isinstance(policy, type) and issubclass(policy, Policy)):
        raise TypeError(f"register_policy({name!r}, ...) takes a class that derives from Policy, not {policy!r}.")
    config = getattr(policy, "Config", None)
    if not (isinstance(config, type) and issubclass(config, PolicyConfig)):
        raise TypeError(
            f"register_policy({name!r}, ...): {policy.__name__}.Config must be a dataclass that derives from "
            f"PolicyConfig and declares the policy's options, not {config!r}."
        )
    config.options()  # checks them
    POLICIES.add(name, policy)


__all__ = [
    "POLICIES",
    "ActionSpec",
    "Decision",
    "Evaluation",
    "IndependentConfig",
    "IndependentPolicy",
    "NetworkConfig",
    "Policy",
    "PolicyConfig",
    "RetentionPolicyConfig",
    "SablePolicy",
    "SeparatePolicy",
    "SequencePolicy",
    "ValueNormalizer",
    "register_policy",
    "reset_state",
]
