"""A GRU's initial biases decide how long it remembers."""

import torch

from rllib_seqmarl.mixers import MixerShape
from rllib_seqmarl.mixers.gru import GRU, GRUOptions


def test_units_with_a_maximal_delay_remember_that_long() -> None:
    torch.manual_seed(0)
    kept = []
    for options in (None, GRUOptions(max_delay=100)):
        gru = GRU(MixerShape(64, options=options)).double()
        states = gru.initial_state(2)
        states["hidden"][1] = 1.0
        x = torch.zeros(2, 50, 64, dtype=torch.float64)
        _, after = gru(x, None, states)
        kept.append((after["hidden"][1] - after["hidden"][0]).abs().mean())
    assert kept[0] < 1e-3 and kept[1] > 0.1
