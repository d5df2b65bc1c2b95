"""The encoder: turns each agent's observation into a representation, mixed among agents, and a value."""

from typing import Any

from torch import Tensor, nn

from rllib_seqmarl.mixers import MIXERS, CausalMixer, Mixer, PreNormMixers
from rllib_seqmarl.mixers.base import State
from rllib_seqmarl.mixers.check import check_users_mixer
from rllib_seqmarl.mixers.layers import ACTIVATED_GAIN, linear
from rllib_seqmarl.networks.action_heads import output_head
from rllib_seqmarl.networks.blocks import JointEncoderBlock, PostNormEncoderBlock, PreNormBlock
from rllib_seqmarl.networks.config import EncoderConfig
from rllib_seqmarl.networks.image_embedding import ImageEmbedding
from rllib_seqmarl.networks.memory import Memory


class Encoder(nn.Module):
    """Maps observations (B, n, obs_dim) to representations (B, n, d), and those to values (B, n).

    With memory, each agent's embedded observation is first mixed with its earlier ones.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        d = config.embed_dim
        self.image, n_features = ImageEmbedding.of(config)
        n_features += config.state_dim
        self.embedding = nn.Sequential(
            nn.LayerNorm(n_features),
            linear(n_features, d, gain=ACTIVATED_GAIN),
            nn.GELU(),
            nn.LayerNorm(d),
        )
        self.memory = Memory(config, d) if config.has_memory and not config.is_joint else None
        mixers = MIXERS[config.encoder_mixer]
        shapes = config.shapes(mixers)
        check_users_mixer(config.encoder_mixer, shapes[0])
        if isinstance(mixers, PreNormMixers):
            bidirectional = config.encoder_directions == 2
            self.blocks = nn.ModuleList(PreNormBlock(mixers, shape, bidirectional) for shape in shapes)
            self.blocks.append(nn.LayerNorm(d, bias=False))
        else:
            block = JointEncoderBlock if config.is_joint else PostNormEncoderBlock
            self.blocks = nn.ModuleList(block(mixers, shape) for shape in shapes)
        self.value = output_head(d, 1)

    def embed(self, obs: Tensor, state: State = None, resets: Tensor | None = None) -> tuple[Tensor, State]:
        """Features (B, n, d) of ``obs`` (B, n, obs_dim); with memory also of windows, see :class:`Memory`."""
        if self.image is not None:
            obs = self.image(obs)  # (..., n, image features and further entries)
        x = self.embedding(obs)  # (..., n, d)
        return (x, None) if self.memory is None else self.memory(x, state, resets)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Representations (B, n, d) and values (B, n) of the agents' features (B, n, d)."""
        for block in self.blocks:
            x = block(x)[0] if isinstance(block, Mixer) else block(x)  # the last one may be a norm
        return x, self.value(x).squeeze(-1)

    def initial_state(self, batch_size: int) -> State:
        """With `memory="joint"`, the states of all blocks."""
        blocks: list[Any] = list(self.blocks)
        mixers = [block.causal if isinstance(block, JointEncoderBlock) else block for block in blocks]
        return [mixer.initial_state(batch_size) for mixer in mixers if isinstance(mixer, CausalMixer)]

    def over_time(self, x: Tensor, state: State, resets: Tensor | None, n_agents: int) -> tuple[Tensor, Tensor, State]:
        """With `memory="joint"`: representations and values of all agents of a window, (B, T * n, ...), and the state.

        Args:
            x: Features (B, T * n, d), step after step.
            state: The state before the window.
            resets: (B, T * n) bool, the tokens before which the state is zeroed, or None.
            n_agents: The number of agents n.
        """
        after, states = [], iter(state)
        for block in self.blocks:
            if isinstance(block, JointEncoderBlock):
                x, block_state = block(x, next(states), resets, n_agents)
            elif isinstance(block, CausalMixer):
                x, block_state = block(x, None, next(states), resets)
            else:
                x = block(x)  # the last norm
                continue
            after.append(block_state)
        return x, self.value(x).squeeze(-1), after
