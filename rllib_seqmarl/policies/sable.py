"""The policy of Sable (Mahjoub et al. 2024, arXiv 2410.01706): retention over time and agents.

pi(a_1..a_n | o_1..o_n) is the product over agents of pi(a_i | encoder(o), a_1..a_{i-1}), as in the Multi-Agent
Transformer; encoder and decoder also read all earlier steps of the episode, through states of constant size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from rllib_seqmarl.mixers.retention import PUBLISHED_SCALING, check_heads, check_scaling, step_encoding
from rllib_seqmarl.networks.decisions import decide
from rllib_seqmarl.networks.decoding import KeepsDecoders, fast_decoder
from rllib_seqmarl.networks.policy_config import PolicyConfig, check_choice, check_counts
from rllib_seqmarl.networks.sable import SableDecoder, SableEncoder, States, sable_head
from rllib_seqmarl.ops.backends import AUTO, check_backend
from rllib_seqmarl.ops.retention import RETENTION
from rllib_seqmarl.policies.base import Decision, Evaluation, Policy, State, TeamObs, network_input

PUBLISHED_SEQ_LEN = 128
STEP = "step"  # in the state (B,): the number of steps since the episode began


@dataclass(frozen=True)
class RetentionPolicyConfig(PolicyConfig):
    """Sizes and options of Sable's network, `rllib_seqmarl.policies.sable.SablePolicy`.

    Attributes:
        n_block: Number of blocks in the encoder and in the decoder.
        n_head: Number of heads; the width of a head must be a multiple of it, and greater.
        embed_dim: The width of a token; a multiple of `n_head`.
        recurrent: Whether retention runs over time as well as over agents; otherwise only over the agents of a step
            (the published `ff_sable`).
        decay_scaling: The factor of what each head keeps of its state from one time step to the next, 31/32 in the
            first head to 511/512 in the last.
        step_encoding: Whether sinusoids of the number of steps since the episode began are added to all tokens.
        agents_per_chunk: With recurrent=False, the encoder reads this many agents at a time: an agent sees those of its
            own chunk and of earlier ones. None for all agents at once.
        zero_ffn: Whether the feed-forward layers start at zero as in the published code, where they have no gradient
            and therefore never train.
        max_seq_len: With recurrent=True, the number of steps through which gradients flow back: training uses windows
            of this length, which begin with the state that the policy had when it acted. None for 128, or all steps
            of a sample if these are fewer.
        backend: The implementation of retention: "auto" selects the fastest one available for the device, "reference"
            is plain torch; docs/mixers.md lists the others.

    Raises:
        ValueError: A value is invalid; the message names the key, the value and a remedy.
    """

    free_options: ClassVar[frozenset[str]] = frozenset({"backend", "max_seq_len", "agents_per_chunk", "zero_ffn"})

    n_block: int = 1
    n_head: int = 1
    embed_dim: int = 64
    recurrent: bool = True
    decay_scaling: float = PUBLISHED_SCALING
    step_encoding: bool = False
    agents_per_chunk: int | None = None
    zero_ffn: bool = False
    max_seq_len: int | None = None
    backend: str = AUTO

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "n_block", "n_head", "embed_dim")
        check_heads(self.embed_dim, self.n_head)
        check_scaling(self.decay_scaling)
        for key in ("recurrent", "step_encoding", "zero_ffn"):
            check_choice(self, key, (True, False))
        check_backend(self.backend, [RETENTION])
        if self.recurrent:
            if self.max_seq_len is not None:
                check_counts(self, "max_seq_len")
            if self.agents_per_chunk is not None:
                raise ValueError(
                    f"agents_per_chunk={self.agents_per_chunk!r} has no effect with recurrent=True, whose encoder sees "
                    f"all agents of a step; remove it, or set recurrent=False"
                )
            return
        for key, unset in (("max_seq_len", None), ("step_encoding", False), ("decay_scaling", PUBLISHED_SCALING)):
            if getattr(self, key) != unset:
                raise ValueError(
                    f"{key}={getattr(self, key)!r} has no effect with recurrent=False; remove it, or set recurrent=True"
                )
        if self.agents_per_chunk is not None:
            check_counts(self, "agents_per_chunk")
            if self.n_agents is not None and self.n_agents % self.agents_per_chunk:
                raise ValueError(
                    f"agents_per_chunk={self.agents_per_chunk} does not divide the {self.n_agents} agents of the team"
                )

    @property
    def has_memory(self) -> bool:
        return self.recurrent

    @property
    def seq_len(self) -> int:
        return self.max_seq_len or PUBLISHED_SEQ_LEN


class SablePolicy(KeepsDecoders, Policy):
    """An encoder of observations and an autoregressive decoder of actions, both with retention over time.

    The state holds the matrices of each block's retention: of the encoder, of the decoder's actions ("actions"), and of
    its reading of them ("cross"), and the number of steps since the episode began.

    Log-probabilities and entropies are (B, n), summed over an agent's choices or action dimensions.
    """

    Config = RetentionPolicyConfig
    config: RetentionPolicyConfig

    def __init__(self, config: RetentionPolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = SableEncoder(config), SableDecoder(config)
        self.head = sable_head(config.action, config.embed_dim, config.backend)

    @classmethod
    def team_axes(cls, config: PolicyConfig) -> dict[str, tuple[int, tuple[str, ...]]]:
        inputs, action = ("own", "ids", "state"), ("action",)
        axes = {"policy.3.weight": 0, "policy.3.bias": 0, "choice_rows": 0, "action_embedding.weight": 1, "log_std": 0}
        return {
            "encoder.embedding.0.weight": (0, inputs),
            "encoder.embedding.1.weight": (1, inputs),
            **{f"head.{name}": (axis, action) for name, axis in axes.items()},
        }

    def initial_state(self, batch_size: int) -> State:
        if not self.config.recurrent:
            return {}
        step = torch.zeros(batch_size, dtype=torch.int64, device=self.decoder.norm.weight.device)
        actions, cross = self.decoder.initial_states(batch_size)
        return {"encoder": self.encoder.initial_states(batch_size), "actions": actions, "cross": cross, STEP: step}

    @torch.no_grad()
    def act(self, obs: TeamObs, state: State = None, deterministic: bool = True) -> Decision:
        batch_size, n = obs["observations"].shape[:2]
        state, head = state or self.initial_state(batch_size), self.head
        encoding = self._encoding(state, 1)  # (B, 1, d)
        encoder_output, values, encoder_states = self._encode(obs, state, encoding)  # (B, n, d), (B, n)
        action_mask = head.effective_mask(obs.get("action_mask"), obs.get("alive"))
        like = encoder_output.new_empty(batch_size, n, self.config.action.width)  # (B, n, width)
        noise = None if deterministic else head.noise(like, action_mask)
        if state:
            states = [state["actions"], state["cross"]]
            first = self.decoder.begin_step(states, None if encoding is None else encoding.squeeze(1))
        else:
            first = self.decoder.initial_state(batch_size)
        decoder = fast_decoder(self.decoder, head, self.config.backend, self._kept_decoders)
        run = decoder or partial(decide, self.decoder, head)
        scores, actions, last = run(encoder_output, action_mask, noise, first)
        if state:
            state = {"encoder": encoder_states, "actions": last.actions, "cross": last.cross, STEP: state[STEP] + 1}
        return Decision(actions, head.log_probs(scores, actions, action_mask), values, state, {})

    def evaluate(
        self,
        obs: TeamObs,
        actions: Tensor,
        state: State = None,
        resets: Tensor | None = None,
        extras: Mapping[str, Tensor] | None = None,
    ) -> Evaluation:
        *lead, n, _ = obs["observations"].shape  # B, T with memory, else B
        lengths = (lead[0], n * (lead[1] if self.config.recurrent else 1))  # of sequences of tokens, (B, L)
        state, head = state or self.initial_state(lead[0]), self.head
        encoding = self._encoding(state, lead[-1], resets)  # (B, T, d)
        encoder_output, values, _ = self._encode(obs, state, encoding, resets)  # (B, L, d), (B, L)
        tokens = head.shifted(actions.flatten(0, len(lead) - 1)).view(*lengths, -1)  # (B, L, d), from (..., n, d)
        states = [state["actions"], state["cross"]] if state else self.decoder.no_states
        window = {"n_agents": n, "decays": self.config.recurrent, "encoding": _of_agents(encoding, n)}
        features, _ = self.decoder(tokens, encoder_output, states, resets, **window)
        features = features.view(*lead, n, -1)  # (B, [T,] n, d)
        alive = obs.get("alive")
        action_mask = head.effective_mask(obs.get("action_mask"), alive)
        scores, actions = head.scores(head.policy(features), action_mask), head.clean(actions, alive, action_mask)
        log_probs, entropy = head.log_probs(scores, actions, action_mask), head.entropy(scores, action_mask)
        return Evaluation(log_probs, entropy, values.view(*lead, n), {})

    def values(self, obs: TeamObs, state: State = None) -> Tensor:
        state = state or self.initial_state(obs["observations"].shape[0])
        return self._encode(obs, state, self._encoding(state, 1))[1]

    def _encode(
        self, obs: TeamObs, state: State, encoding: Tensor | None, resets: Tensor | None = None
    ) -> tuple[Tensor, Tensor, States]:
        """Representations (B, L, d), values (B, L), and the encoder's states after the window."""
        inputs = network_input(self.config, obs)  # (B, [T,] n, o)
        n = inputs.shape[-2]
        chunk = self.config.agents_per_chunk or n
        states = state["encoder"] if state else [None] * self.config.n_block
        window = {"n_agents": chunk, "decays": self.config.recurrent, "encoding": _of_agents(encoding, n)}
        encoded: tuple[Tensor, Tensor, States] = self.encoder(inputs.flatten(1, -2), states, resets, **window)
        return encoded

    def _encoding(self, state: State, length: int, resets: Tensor | None = None) -> Tensor | None:
        """The encoding of every time step's count (B, length, d), if there is one."""
        if not self.config.step_encoding:
            return None
        positions = torch.arange(length, device=state[STEP].device)
        first = -state[STEP].unsqueeze(1).expand(-1, length)  # (B, length), the position at which the episode began
        if resets is not None:
            first = torch.where(resets, positions, first).cummax(1).values
        encoding = step_encoding(positions - first, self.config.embed_dim)
        return encoding.to(self.decoder.norm.weight.dtype)


def _of_agents(encoding: Tensor | None, n: int) -> Tensor | None:
    """The encoding of every token (B, T * n, d) of those of time steps (B, T, d)."""
    return None if encoding is None else encoding.repeat_interleave(n, dim=1)
