"""Attention equals softmax(q k' / sqrt(d / heads)) v, with and without folding."""

import math

import pytest
import torch

from rllib_seqmarl.mixers import MixerShape
from rllib_seqmarl.mixers.attention import CausalSelfAttention, CrossAttention, SelfAttention


def reference_attention(mixer, source, x, causal):
    """Equation 1 of arXiv 1706.03762, head by head."""
    q, (k, v) = mixer.query(source), mixer.key_value(x).chunk(2, dim=-1)
    heads = []
    for q_h, k_h, v_h in zip(*(y.chunk(mixer.n_head, dim=-1) for y in (q, k, v)), strict=True):
        scores = q_h @ k_h.mT / math.sqrt(q_h.shape[-1])  # (B, n, n)
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(-1) @ v_h)
    return mixer.proj(torch.cat(heads, dim=-1))


@pytest.mark.parametrize(("d", "n_head"), [(16, 1), (16, 4), (160, 1)])
@pytest.mark.parametrize("kind", [SelfAttention, CausalSelfAttention, CrossAttention])
def test_values_and_gradients(kind, d, n_head):
    torch.manual_seed(0)
    mixer = kind(MixerShape(d, n_head)).double()
    for parameter in mixer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x, context = torch.randn(2, 3, 5, d, dtype=torch.float64, requires_grad=True)
    source = context if kind is CrossAttention else x
    expected = reference_attention(mixer, source, x, causal=kind is not SelfAttention)
    actual, _ = mixer(x, context)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    inputs = [x, *mixer.parameters()]
    weight = torch.randn_like(actual)
    gradients = (torch.autograd.grad((y * weight).sum(), inputs) for y in (actual, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
