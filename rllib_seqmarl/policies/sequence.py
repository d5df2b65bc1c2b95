"""The sequence policy of MAT, MAM and MARWKV, which differ only in their mixers.

pi(a_1..a_n | o_1..o_n) is the product over agents of pi(a_t | encoder(o_1..o_n), a_1..a_{t-1}) (Wen et al.
2022, arXiv 2205.14953, section 4), so a team acts agent by agent but is trained in one parallel pass.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from rllib_seqmarl.networks.config import NetworkConfig
from rllib_seqmarl.networks.decisions import decide
from rllib_seqmarl.networks.decoder import Decoder
from rllib_seqmarl.networks.decoding import KeptDecoders, fast_decoder
from rllib_seqmarl.networks.encoder import Encoder
from rllib_seqmarl.networks.policy_config import PolicyConfig
from rllib_seqmarl.ops.backends import is_exporting
from rllib_seqmarl.policies.base import Decision, Evaluation, Policy, State, TeamObs, input_axes, network_input

ORDER = "order"  # the extra (B, n): the agent that decides i-th


class SequencePolicy(Policy):
    """An encoder of observations and an autoregressive decoder of actions.

    The encoder reads the global state, if there is one, together with each agent's observation. Log-probabilities and
    entropies are (B, n) for discrete actions (summed over the choices of an agent) and (B, n, dim), one per action
    dimension, for continuous ones.

    Agents decide in the order of the observations, or in a drawn one (`agent_order`), which is the extra "order".
    """

    Config = NetworkConfig
    config: NetworkConfig

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.head = config.head_class(config.action, config.embed_dim)
        self._kept_decoders: KeptDecoders | None = None

    @classmethod
    def team_axes(cls, config: PolicyConfig) -> dict[str, tuple[int, tuple[str, ...]]]:
        actions = {
            "policy.3.weight": 0,
            "policy.3.bias": 0,
            "choice_rows": 0,
            "action_embedding.weight": 1,
            "log_std": 0,
        }
        return {
            **input_axes("encoder.embedding.", ("own", "ids", "state")),
            **{f"head.{name}": (axis, ("action",)) for name, axis in actions.items()},
        }

    @contextmanager
    def fixed_weights(self) -> Iterator[None]:
        before, self._kept_decoders = self._kept_decoders, {}
        try:
            yield
        finally:
            self._kept_decoders = before

    def initial_state(self, batch_size: int) -> State:
        if self.config.agent_order != "shuffled":
            return {}
        n = self.config.n_agents
        return {ORDER: torch.zeros(batch_size, n or 0, dtype=torch.int64, device=self.decoder.norm.weight.device)}

    def act(self, obs: TeamObs, state: State = None, deterministic: bool = True) -> Decision:
        order = self._draw_order(obs["observations"], state)
        # Inference mode is 10% faster, but torch.compile's own backend and exports do not support it.
        is_traced = torch.compiler.is_compiling() or is_exporting()
        with torch.no_grad() if is_traced else torch.inference_mode():
            actions, log_probs, values = self._decode(in_order(obs, order), deterministic)
            actions, log_probs, values = (_restore(x, order) for x in (actions, log_probs, values))
        extras = {} if order is None else {ORDER: order}
        state = extras if self.config.agent_order == "shuffled" else {}
        # Copies are ordinary tensors.
        return Decision(actions.clone(), log_probs.clone(), values.clone(), state, extras)

    def _draw_order(self, observations: Tensor, state: State) -> Tensor | None:
        """The order of agents (B, n): that of the state, or a new one for episodes that begin; None if it is fixed."""
        if self.config.agent_order == "fixed":
            return None
        order = torch.rand(observations.shape[:2], device=observations.device).argsort(-1)
        if self.config.agent_order == "shuffled_steps" or not state:
            return order
        return torch.where((state[ORDER] == 0).all(-1, keepdim=True), order, state[ORDER])  # zeros: not drawn yet

    def _decode(self, obs: TeamObs, deterministic: bool) -> tuple[Tensor, Tensor, Tensor]:
        encoder_output, values = self.encoder(network_input(self.config, obs))  # (B, n, d), (B, n)
        head = self.head
        action_mask = head.effective_mask(obs.get("action_mask"), obs.get("alive"))
        like = encoder_output.new_empty(*encoder_output.shape[:2], self.config.action.width)  # (B, n, width)
        noise = None if deterministic else head.noise(like, action_mask)  # (B, n, width), like action_mask
        decoder = fast_decoder(self.decoder, head, self.config.backend, self._kept_decoders)
        run = decoder or partial(decide, self.decoder, head)
        scores, actions = run(encoder_output, action_mask, noise)
        return actions, head.log_probs(scores, actions, action_mask), values

    def evaluate(
        self,
        obs: TeamObs,
        actions: Tensor,
        state: State = None,
        resets: Tensor | None = None,
        extras: Mapping[str, Tensor] | None = None,
    ) -> Evaluation:
        order = None if extras is None else extras.get(ORDER)
        obs, actions = in_order(obs, order), _permute(actions, order)
        encoder_output, values = self.encoder(network_input(self.config, obs))
        head, alive = self.head, obs.get("alive")
        action_mask = head.effective_mask(obs.get("action_mask"), alive)
        # Not cleaned before decoding: successors were conditioned on the given actions of dead agents as well.
        features, _ = self.decoder(head.shifted(actions), encoder_output)  # (B, n, d)
        scores = head.scores(head.policy(features), action_mask)  # (B, n, width)
        actions = head.clean(actions, alive, action_mask)
        log_probs = head.log_probs(scores, actions, action_mask)
        entropy = head.entropy(scores, action_mask)
        return Evaluation(_restore(log_probs, order), _restore(entropy, order), _restore(values, order), {})

    def values(self, obs: TeamObs, state: State = None) -> Tensor:
        order = self._draw_order(obs["observations"], state)
        return _restore(self.encoder(network_input(self.config, in_order(obs, order)))[1], order)


def in_order(obs: TeamObs, order: Tensor | None) -> TeamObs:
    """The joint observation with agents permuted: entry i is that of agent `order[:, i]`."""
    if order is None:
        return obs
    shared = obs["observations"].dim() - 1  # axes of a global state that is the same for all agents
    return {key: x if key == "state" and x.dim() == shared else _permute(x, order) for key, x in obs.items()}


def _permute(x: Tensor, order: Tensor | None) -> Tensor:
    """Permute the agents of `x` (B, n, ...)."""
    if order is None:
        return x
    index = order.view(*order.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])  # (B, n, ...)
    return x.gather(1, index)


def _restore(x: Tensor, order: Tensor | None) -> Tensor:
    """The inverse of `_permute`."""
    return x if order is None else _permute(x, order.argsort(-1))
