"""Compiled decoding: one token of a batch of teams at a time. Does not import numba until it is used.

One token of 32 teams needs so little arithmetic that the overhead of two dozen torch operations is several times as
expensive. Here each mixer, each block's position-wise part and each action head processes a token in one compiled loop,
including matrix products, norms and recurrence. Weights are packed when a decoder is created; states are arrays that
loops update in place. Loops pass tokens to each other as arrays: converting one to a tensor and back takes as long as a
small loop.

``fast_decoder.py`` says which loop runs which module. All others, such as users' mixers, run by their plain torch
``step``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rllib_seqmarl.ops.backends import Operation, is_exporting, reference_backend
from rllib_seqmarl.ops.numba_support import numba_backend

if TYPE_CHECKING:
    from rllib_seqmarl.networks.action_heads import ActionHead
    from rllib_seqmarl.networks.decoder import Decoder
    from rllib_seqmarl.networks.decoding.fast_decoder import FastDecoder
    from rllib_seqmarl.networks.sable import SableDecoder

KeptDecoders = dict[int, "FastDecoder"]


DECODING = Operation(
    "decoding",
    [
        numba_backend("rllib_seqmarl.networks.decoding.tiles", "affine"),
        reference_backend(torch.nn.functional.linear, "plain torch"),
    ],
    auto_aliases=("mamba-ssm", "fla"),
)


def fast_decoder(
    decoder: Decoder | SableDecoder, head: ActionHead, backend: str, kept: KeptDecoders | None = None
) -> FastDecoder | None:
    """A compiled decoder with the current weights, or None where kernels cannot run.

    They cannot on CUDA, in half precision or autocast, without numba, and while torch.compile or an export is tracing,
    where they would break the graph at every token.

    Args:
        decoder: The network's decoder.
        head: Its action head.
        backend: "auto" or the name of a backend.
        kept: If given, each thread creates its decoder once and keeps it here; a decoder holds the states of one
            decision, so threads cannot share it. The caller empties it when weights change.

    Raises:
        ValueError: ``backend`` requires kernels that cannot run on such weights.
    """
    if not is_compiled(backend, decoder.norm.weight):
        return None
    from rllib_seqmarl.networks.decoding.fast_decoder import FastDecoder  # deferred: numba is optional

    kept, thread = {} if kept is None else kept, get_ident()
    if thread not in kept:
        kept[thread] = FastDecoder(decoder, head)
    return kept[thread]


class KeepsDecoders:
    """For a policy: keeps its compiled decoders while weights are fixed."""

    _kept_decoders: KeptDecoders | None = None

    @contextmanager
    def fixed_weights(self) -> Iterator[None]:
        """Weights do not change within this context, which is to be entered by one thread at a time."""
        before, self._kept_decoders = self._kept_decoders, {}
        try:
            yield
        finally:
            self._kept_decoders = before


def is_compiled(backend: str, like: Tensor) -> bool:
    """Whether decoding with weights like ``like`` runs on kernels; raises as :func:`fast_decoder`."""
    if torch.compiler.is_compiling() or is_exporting():
        return False
    return DECODING.choose(backend, like) is not DECODING.reference and not torch.is_autocast_enabled("cpu")
