"""The sequence policy of MAT, MAM and MARWKV, which differ only in their mixers.

pi(a_1..a_n | o_1..o_n) is the product over agents of pi(a_t | encoder(o_1..o_n), a_1..a_{t-1}) (Wen et al.
2022, arXiv 2205.14953, section 4), so a team acts agent by agent but is trained in one parallel pass.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from rllib_seqmarl.networks.config import NetworkConfig
from rllib_seqmarl.networks.decisions import decide
from rllib_seqmarl.networks.decoder import Decoder
from rllib_seqmarl.networks.decoding import KeepsDecoders, fast_decoder
from rllib_seqmarl.networks.encoder import Encoder
from rllib_seqmarl.networks.policy_config import PolicyConfig
from rllib_seqmarl.ops.backends import is_exporting
from rllib_seqmarl.policies.base import Decision, Evaluation, Policy, State, TeamObs, input_axes, network_input

ORDER = "order"  # the extra (B, n): the agent that decides i-th
MEMORY = "memory"  # each agent's memory in the state
ENCODER, DECODER = "encoder", "decoder"  # in the state with memory="joint"


class Window(NamedTuple):
    """With memory="joint", what relates the teams of S = B * T steps to sequences of T * n agents.

    ``state`` is the policy's state before the window, ``resets`` (B, T * n) are its tokens that begin an episode.
    """

    batch_size: int
    state: State
    resets: Tensor | None

    def join(self, x: Tensor) -> Tensor:
        """(B, T * n, ...) of (S, n, ...)."""
        return x.reshape(self.batch_size, -1, *x.shape[2:])


class SequencePolicy(KeepsDecoders, Policy):
    """An encoder of observations and an autoregressive decoder of actions.

    The encoder reads the global state, if there is one, together with each agent's observation. Log-probabilities and
    entropies are (B, n) for discrete actions (summed over the choices of an agent) and (B, n, dim), one per action
    dimension, for continuous ones.

    With memory, each agent's observations are mixed along time before they are mixed among agents. With
    `memory="joint"`, the mixers themselves run over the agents of all steps: in the encoder, a causal mixer over them
    precedes the one among the agents of a step; the decoder also reads the actions of all agents at earlier steps.

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

    def initial_state(self, batch_size: int) -> State:
        n, state = self.config.n_agents or 0, {}
        if self.encoder.memory is not None:
            state[MEMORY] = self.encoder.memory.initial_state(batch_size, n)
        if self.config.is_joint:
            state |= {ENCODER: self.encoder.initial_state(batch_size), DECODER: self.decoder.initial_state(batch_size)}
        if self.config.agent_order == "shuffled":
            device = self.decoder.norm.weight.device
            state[ORDER] = torch.zeros(batch_size, n, dtype=torch.int64, device=device)
        return state

    def act(self, obs: TeamObs, state: State = None, deterministic: bool = True) -> Decision:
        before = self._state_before(obs, state)
        order = self._draw_order(obs["observations"], before)
        # Inference mode is 10% faster, but torch.compile's own backend and exports do not support it.
        is_traced = torch.compiler.is_compiling() or is_exporting()
        with torch.no_grad() if is_traced else torch.inference_mode():
            features, memory = self.encoder.embed(network_input(self.config, obs), before.get(MEMORY))  # (B, n, d)
            window = Window(features.shape[0], before, None) if self.config.is_joint else None
            *decided, after = self._decode(features, obs, order, deterministic, window)
            actions, log_probs, values = (_restore(x, order) for x in decided)
        extras = {} if order is None else {ORDER: order}
        if self.config.agent_order == "shuffled":
            after = after | extras
        if memory is not None:
            after = after | {MEMORY: memory}
        # Copies are ordinary tensors.
        return Decision(actions.clone(), log_probs.clone(), values.clone(), tree_map(Tensor.clone, after), extras)

    def _draw_order(self, observations: Tensor, state: State) -> Tensor | None:
        """The order of agents (B, n): that of the state, or a new one for episodes that begin; None if it is fixed."""
        if self.config.agent_order == "fixed":
            return None
        order = torch.rand(observations.shape[:2], device=observations.device).argsort(-1)
        if self.config.agent_order == "shuffled_steps":
            return order
        return torch.where((state[ORDER] == 0).all(-1, keepdim=True), order, state[ORDER])  # zeros: not drawn yet

    def _state_before(self, obs: TeamObs, state: State) -> dict[str, Any]:
        return state or self.initial_state(obs["observations"].shape[0])

    def _encode(self, features: Tensor, window: Window | None) -> tuple[Tensor, Tensor, State]:
        """Representations and values of S teams, (S, n, d) and (S, n), and the encoder's state after the window."""
        if window is None:
            return *self.encoder(features), None
        n = features.shape[1]
        joined = window.join(features), window.state[ENCODER], window.resets
        output, values, state = self.encoder.over_time(*joined, n)  # (B, T * n, d), (B, T * n)
        return output.view_as(features), values.view(-1, n), state

    def _decode(
        self, features: Tensor, obs: TeamObs, order: Tensor | None, deterministic: bool, window: Window | None
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, State]]:
        encoder_output, values, state = self._encode(_permute(features, order), window)  # (B, n, d), (B, n)
        head = self.head
        masks = (_permute(obs.get(key), order) for key in ("action_mask", "alive"))
        action_mask = head.effective_mask(*masks)
        like = encoder_output.new_empty(*encoder_output.shape[:2], self.config.action.width)  # (B, n, width)
        noise = None if deterministic else head.noise(like, action_mask)  # (B, n, width), like action_mask
        decoder = fast_decoder(self.decoder, head, self.config.backend, self._kept_decoders)
        run = decoder or partial(decide, self.decoder, head)
        before = None if window is None else window.state[DECODER]
        scores, actions, decoder_state = run(encoder_output, action_mask, noise, before)
        after = {} if window is None else {ENCODER: state, DECODER: decoder_state}
        return actions, head.log_probs(scores, actions, action_mask), values, after

    def evaluate(
        self,
        obs: TeamObs,
        actions: Tensor,
        state: State = None,
        resets: Tensor | None = None,
        extras: Mapping[str, Tensor] | None = None,
    ) -> Evaluation:
        order = None if extras is None else extras.get(ORDER)
        before = self._state_before(obs, state) if self.config.has_memory else {}
        features, _ = self.encoder.embed(network_input(self.config, obs), before.get(MEMORY), resets)
        action_mask, alive = obs.get("action_mask"), obs.get("alive")
        if not self.config.has_memory:
            return self._evaluate(features, actions, action_mask, alive, order)
        window = None
        if self.config.is_joint:
            first = None
            if resets is not None:  # an episode begins with the first agent of a step
                first = F.pad(resets.unsqueeze(-1), (0, actions.shape[2] - 1)).flatten(1)  # (B, T * n)
            window = Window(actions.shape[0], before, first)
        # Beyond the agents' memory, every step of a window (B, T, ...) is an entry of the batch.
        steps = [None if x is None else x.flatten(0, 1) for x in (features, actions, action_mask, alive, order)]
        log_probs, entropy, values, _ = self._evaluate(*steps, window=window)  # type: ignore[arg-type, misc]
        log_probs, entropy, values = (x.unflatten(0, actions.shape[:2]) for x in (log_probs, entropy, values))
        return Evaluation(log_probs, entropy, values, {})

    def _evaluate(
        self,
        features: Tensor,
        actions: Tensor,
        action_mask: Tensor | None,
        alive: Tensor | None,
        order: Tensor | None,
        window: Window | None = None,
    ) -> Evaluation:
        features, actions = _permute(features, order), _permute(actions, order)
        encoder_output, values, _ = self._encode(features, window)
        head, alive = self.head, _permute(alive, order)
        action_mask = head.effective_mask(_permute(action_mask, order), alive)
        # Not cleaned before decoding: successors were conditioned on the given actions of dead agents as well.
        tokens = head.shifted(actions)  # (B, n, d)
        if window is None:
            decoded, _ = self.decoder(tokens, encoder_output)
        else:
            joined = window.join(tokens), window.join(encoder_output)
            decoded = self.decoder(*joined, window.state[DECODER], window.resets)[0].view_as(tokens)
        scores = head.scores(head.policy(decoded), action_mask)  # (B, n, width)
        actions = head.clean(actions, alive, action_mask)
        log_probs = head.log_probs(scores, actions, action_mask)
        entropy = head.entropy(scores, action_mask)
        return Evaluation(_restore(log_probs, order), _restore(entropy, order), _restore(values, order), {})

    def values(self, obs: TeamObs, state: State = None) -> Tensor:
        before = self._state_before(obs, state)
        order = self._draw_order(obs["observations"], before)
        features, _ = self.encoder.embed(network_input(self.config, obs), before.get(MEMORY))
        window = Window(features.shape[0], before, None) if self.config.is_joint else None
        return _restore(self._encode(_permute(features, order), window)[1], order)


def _permute(x: Any, order: Tensor | None) -> Any:
    """Permute the agents of `x` (B, n, ...), or None: entry i is that of agent `order[:, i]`."""
    if x is None or order is None:
        return x
    index = order.view(*order.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])  # (B, n, ...)
    return x.gather(1, index)


def _restore(x: Tensor, order: Tensor | None) -> Tensor:
    """The inverse of `_permute`."""
    return x if order is None else _permute(x, order.argsort(-1))
