"""Sable's encoder, decoder and action heads: retention over time and agents (Mahjoub et al. 2024, arXiv 2410.01706).

Tokens are agents of consecutive time steps, (B, T * n, d). In the encoder, the agents of a time step read each other
and all earlier steps; in the decoder, an agent reads its predecessors' actions, and all agents' at earlier steps.
Sizes, norms and initial weights are those of the published code (instadeepai/Mava).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional as F

from rllib_seqmarl.mixers.layers import ACTIVATED_GAIN, linear
from rllib_seqmarl.mixers.retention import NORM_EPSILON, MultiScaleRetention
from rllib_seqmarl.networks.action_heads import ActionHead, CategoricalHead
from rllib_seqmarl.networks.image_embedding import ImageEmbedding
from rllib_seqmarl.networks.policy_config import ActionSpec
from rllib_seqmarl.networks.tanh_gaussian import TanhGaussian
from rllib_seqmarl.ops.rms_norm import RMSNorm

States = list[Any]
"""The state of each block's retention, or None where none is wanted."""


class DecodingState(NamedTuple):
    """The decoder's states between the agents of a time step, and its encoding (B, d) or None."""

    actions: States
    cross: States
    encoding: Tensor | None


def norm(d: int, backend: str) -> RMSNorm:
    return RMSNorm(d, NORM_EPSILON, backend)


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def output_head(d: int, width: int, backend: str) -> nn.Sequential:
    """Linear -> GELU -> RMSNorm -> Linear."""
    return nn.Sequential(
        linear(d, d, gain=ACTIVATED_GAIN), nn.GELU(approximate="tanh"), norm(d, backend), linear(d, width)
    )


class SwiGLU(nn.Module):
    """(silu(x W_gate) * (x W_linear)) W_output (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, d: int, is_zero: bool) -> None:
        super().__init__()
        self.gate, self.linear, self.output = (nn.Linear(d, d, bias=False) for _ in range(3))
        for layer in (self.gate, self.linear, self.output):
            nn.init.normal_(layer.weight, std=0.0 if is_zero else d**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(F.silu(self.gate(x)) * self.linear(x))
        return y


class EncoderBlock(nn.Module):
    """Retention among all agents of a time step and earlier ones, then SwiGLU; residuals start at normalised tokens."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        d = config.embed_dim
        self.retention, self.ffn = _retention(config), SwiGLU(d, config.zero_ffn)
        self.norm1, self.norm2 = (norm(d, config.backend) for _ in range(2))

    def forward(self, x: Tensor, state: Tensor | None, resets: Tensor | None, **window: Any) -> Any:
        y, state = self.retention(x, x, x, state, resets, causal=False, **window)
        x = self.norm1(x + y)  # (B, L, d)
        return self.norm2(x + self.ffn(x)), state


class DecoderBlock(nn.Module):
    """Retention among actions, retention from the encoder's output to actions, then SwiGLU."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        d = config.embed_dim
        self.retention, self.cross, self.ffn = _retention(config), _retention(config), SwiGLU(d, config.zero_ffn)
        self.norm1, self.norm2, self.norm3 = (norm(d, config.backend) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor, states: States, resets: Tensor | None, **window: Any) -> Any:
        y, own = self.retention(x, x, x, states[0], resets, **window)
        x = self.norm1(x + y)  # (B, L, d)
        y, crossed = self.cross(context, x, x, states[1], resets, **window)
        x = self.norm2(context + y)
        return self.norm3(x + self.ffn(x)), own, crossed


class SableEncoder(nn.Module):
    """Maps observations (B, L, obs_dim + state_dim) to representations (B, L, d) and values (B, L)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        d = config.embed_dim
        self.image, n_features = ImageEmbedding.of(config)
        n_features += config.state_dim
        self.embedding = nn.Sequential(
            norm(n_features, config.backend), linear(n_features, d, gain=ACTIVATED_GAIN, bias=False)
        )
        self.norm = norm(d, config.backend)  # before every block
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_block))
        self.value = output_head(d, 1, config.backend)

    def initial_states(self, batch_size: int) -> States:
        return [cast(EncoderBlock, block).retention.initial_state(batch_size) for block in self.blocks]

    def forward(
        self, obs: Tensor, states: States, resets: Tensor | None = None, **window: Any
    ) -> tuple[Tensor, Tensor, States]:
        if self.image is not None:
            obs = self.image(obs)
        x, after = gelu(self.embedding(obs)), []
        for block, state in zip(self.blocks, states, strict=True):
            x, state = block(self.norm(x), state, resets, **window)
            after.append(state)
        return x, self.value(x).squeeze(-1), after


class SableDecoder(nn.Module):
    """Maps action tokens and the encoder's output, both (B, L, d), to features (B, L, d)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.norm = norm(config.embed_dim, config.backend)
        self.blocks = cast(Sequence[DecoderBlock], nn.ModuleList(DecoderBlock(config) for _ in range(config.n_block)))

    def forward(
        self, x: Tensor, context: Tensor, states: list[States], resets: Tensor | None = None, **window: Any
    ) -> tuple[Tensor, list[States]]:
        """``states`` are those of actions and of cross retention, each with one per block."""
        x, after = self.norm(x), []
        for block, *pair in zip(self.blocks, *states, strict=True):
            x, *pair = block(x, context, pair, resets, **window)
            after.append(pair)
        return x, [list(states) for states in zip(*after, strict=True)]

    def initial_states(self, batch_size: int) -> list[States]:
        return [[layer.initial_state(batch_size) for layer in layers] for layers in self._layers()]

    @property
    def no_states(self) -> list[States]:
        """What to pass to start from zeros, without states after the window."""
        return [[None] * len(layers) for layers in self._layers()]

    def initial_state(self, batch_size: int) -> DecodingState:
        """The state at the beginning of a first time step without encoding, for :meth:`step`."""
        actions, cross = self.initial_states(batch_size)
        return DecodingState(actions, cross, None)

    def begin_step(self, states: list[States], encoding: Tensor | None) -> DecodingState:
        """The state at the beginning of a time step, for :meth:`step`, of states after the last time step.

        ``encoding`` (B, d) is that of the time step, if there is one.
        """
        pairs = zip(self._layers(), states, strict=True)
        actions, cross = ([layer.decay_state(x) for layer, x in zip(*pair, strict=True)] for pair in pairs)
        return DecodingState(actions, cross, encoding)

    def step(self, x: Tensor, state: DecodingState, context: Tensor) -> tuple[Tensor, DecodingState]:
        """The features (B, d) of the next agent of a time step, for its action token and context (B, d)."""
        *states, encoding = state
        window = {"decays": False, "encoding": None if encoding is None else encoding.unsqueeze(1)}
        features, (actions, cross) = self(x.unsqueeze(1), context.unsqueeze(1), states, **window)
        return features.squeeze(1), DecodingState(actions, cross, encoding)

    def _layers(self) -> tuple[list[Any], list[Any]]:
        return [block.retention for block in self.blocks], [block.cross for block in self.blocks]


class SableCategoricalHead(CategoricalHead):
    """One or several independent choices per agent, with Sable's layers."""

    activation = staticmethod(gelu)

    def __init__(self, spec: ActionSpec, embed_dim: int, backend: str) -> None:
        super().__init__(spec, embed_dim)
        self.policy = output_head(embed_dim, spec.width, backend)


class SableGaussianHead(ActionHead, TanhGaussian):
    """A squashed Normal per action dimension, with Sable's layers."""

    activation = staticmethod(gelu)

    def __init__(self, spec: ActionSpec, embed_dim: int, backend: str) -> None:
        super().__init__(spec, embed_dim)
        self.policy = output_head(embed_dim, spec.width, backend)
        self.action_embedding = linear(spec.dim, embed_dim, gain=ACTIVATED_GAIN)

    def start(self, batch_size: int) -> Tensor:
        return self.embedder()(self.log_std.new_zeros(batch_size, self.spec.dim))  # (B, d)

    def embedder(self) -> Callable[[Tensor], Tensor]:
        return lambda actions: self.activation(self.action_embedding(actions.to(self.log_std.dtype)))


def sable_head(spec: ActionSpec, embed_dim: int, backend: str) -> ActionHead:
    """The head for this kind of actions."""
    return (SableCategoricalHead if spec.kind == "discrete" else SableGaussianHead)(spec, embed_dim, backend)


def _retention(config: Any) -> MultiScaleRetention:
    return MultiScaleRetention(config.embed_dim, config.n_head, config.decay_scaling, config.backend)
