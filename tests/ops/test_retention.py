"""Retention equals Sable's published one and its definition, on every available backend."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rllib_seqmarl.ops import numba_support
from rllib_seqmarl.ops.retention import RETENTION, retention

BACKENDS = RETENTION.available()
FAST = [name for name in BACKENDS if name != "reference"]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
# Published names: the encoder's retention is "full", the decoder's "masked".
KINDS = {"full": False, "masked": True}
GOLDEN = Path(__file__).parents[1] / "golden"


class Golden:
    """The published numbers, with tokens as (batch, length, heads, channels)."""

    def __init__(self, dtype=torch.float64):
        self.data = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "retention.npz").items()}
        self.q, self.k, self.v = (self.tokens(name).to(dtype) for name in "qkv")
        self.state, self.decay = self.data["initial_hidden"].to(dtype), self.data["decay_kappas"]
        self.resets, self.n_agents = self.data["dones"], int(self.data["n_agents"])
        self.scale = float(self.data["full/parallel/y"].abs().max())

    def tokens(self, key):
        return self.data[key].transpose(1, 2)

    def windows(self, steps, causal, backend):
        """Outputs of windows of ``steps`` time steps, and the states after them."""
        state, outputs, states = self.state, [], []
        for first in range(0, self.resets.shape[1], steps):
            at = slice(first * self.n_agents, (first + steps) * self.n_agents)
            y, state = retention(
                self.q[:, at], self.k[:, at], self.v[:, at], self.decay, True, n_agents=self.n_agents, causal=causal,
                initial_state=state, resets=self.resets[:, first : first + steps], backend=backend,
            )  # fmt: skip
            outputs.append(y)
            states.append(state)
        return torch.cat(outputs, dim=1), states

    def assert_equal(self, actual, expected):
        tolerance = TOLERANCES[actual.dtype]
        torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance * self.scale)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_published_forms(kind, dtype, backend):
    golden = Golden(dtype)
    per_chunk, all_steps = int(golden.data[f"{kind}/chunkwise/timesteps_per_chunk"]), golden.resets.shape[1]
    assert 1 < per_chunk < all_steps
    for form, steps in (("parallel", all_steps), ("chunkwise", per_chunk)):
        y, states = golden.windows(steps, KINDS[kind], backend)
        golden.assert_equal(y, golden.tokens(f"{kind}/{form}/y"))
        golden.assert_equal(states[-1], golden.data[f"{kind}/{form}/hidden_after"])
    y, states = golden.windows(1, KINDS[kind], backend)
    golden.assert_equal(y, golden.tokens(f"{kind}/recurrent/y"))
    golden.assert_equal(torch.stack(states, dim=1), golden.data[f"{kind}/recurrent/hidden_after_each_step"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_published_type_without_memory(kind, dtype, backend):
    """Its decay is one, and all its tokens are agents of one time step."""
    golden = Golden(dtype)
    y = retention(
        golden.q, golden.k, golden.v, torch.ones(2), n_agents=golden.q.shape[1], causal=KINDS[kind],
        initial_state=golden.state, backend=backend,
    )  # fmt: skip
    golden.assert_equal(y, golden.tokens(f"ff_type/{kind}/y"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_the_published_decays(kind, backend):
    """With scores of one, tokens read the weights themselves."""
    golden = Golden()
    ones = torch.ones(*golden.q.shape[:3], 1, dtype=torch.float64)
    size = ones.shape[1]
    keywords = {"n_agents": golden.n_agents, "causal": KINDS[kind], "resets": golden.resets, "backend": backend}
    one_hot = torch.eye(size, dtype=torch.float64).view(1, size, 1, size).expand(*ones.shape[:3], size)
    weights = retention(ones, ones, one_hot, golden.decay, **keywords)
    golden.assert_equal(weights, golden.tokens(f"{kind}/decay_matrix"))
    state = torch.ones(2, 2, 1, 1, dtype=torch.float64)
    of_state = retention(ones, 0 * ones, ones, golden.decay, initial_state=state, **keywords)
    golden.assert_equal(of_state.squeeze(-1), golden.tokens("xi"))


def by_definition(q, k, v, decay, n_agents, causal, state, resets):
    """Sums over all pairs of tokens."""
    length = q.shape[1]
    times, tokens = torch.arange(length) // n_agents, torch.arange(length)
    age = times[:, None] - times
    seen = tokens[:, None] >= tokens if causal else age >= 0
    episodes = resets.cumsum(1)[:, times]  # (B, L)
    weights = decay.view(-1, 1, 1) ** age.clamp(min=0) * (seen & (episodes[:, :, None] == episodes[:, None]))[:, None]
    scores = torch.einsum("bihc,bjhc->bhij", q, k) * weights
    y = torch.einsum("bhij,bjhc->bihc", scores, v)
    left = decay ** (times[:, None] + 1) * (episodes == 0)[..., None]  # (B, L, H)
    y = y + torch.einsum("bihc,bhcd,bih->bihd", q, state, left)
    last_state = torch.einsum("bhj,bjhc,bjhd->bhcd", weights[:, :, -1], k, v) + left[:, -1, :, None, None] * state
    return y, last_state


@st.composite
def sizes(draw):
    """Tokens per time step, and time steps: up to several chunks in all backends."""
    n_agents = draw(st.integers(1, 9) | st.integers(10, 80))
    return n_agents, draw(st.integers(1, max(2, 150 // n_agents)))


def arguments(batch_size, length, heads, d_k, d_v, dtype=torch.float64):
    """q, k, v and a state that require gradients."""
    shapes = [(batch_size, length, heads, d) for d in (d_k, d_k, d_v)] + [(batch_size, heads, d_k, d_v)]
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def gradients(y, state, inputs):
    torch.manual_seed(1)
    loss = sum((x * torch.randn(x.shape, dtype=x.dtype)).sum() for x in (y, state))
    return torch.autograd.grad(loss, inputs)


def assert_close(actual, expected, tolerance):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(b.detach().abs().max())))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=50, deadline=None)
@given(
    batch_size=st.integers(1, 3), size=sizes(), heads=st.integers(1, 3), d_k=st.integers(1, 9), d_v=st.integers(1, 9),
    causal=st.booleans(), share=st.sampled_from([0.0, 0.1, 0.5]), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_equals_the_sum_over_all_pairs(backend, batch_size, size, heads, d_k, d_v, causal, share, seed):
    torch.manual_seed(seed)
    n_agents, steps = size
    *tokens, state = inputs = arguments(batch_size, n_agents * steps, heads, d_k, d_v)
    decay = torch.tensor([0.0, 0.8, 1.0], dtype=torch.float64)[torch.randperm(3)][:heads]
    resets = torch.rand(batch_size, steps) < share
    expected = by_definition(*tokens, decay, n_agents, causal, state, resets)
    expected = (*expected, *gradients(*expected, inputs))
    keywords = {"n_agents": n_agents, "causal": causal, "initial_state": state, "backend": backend}
    for given_resets in [resets] if resets.any() else [resets, None]:
        actual = retention(*tokens, decay, True, resets=given_resets, **keywords)
        assert_close((*actual, *gradients(*actual, inputs)), expected, tolerance=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n_agents", "steps"), [(1, 40), (3, 12), (9, 3), (35, 2)])  # several chunks
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("has_state", [True, False])
def test_gradients(backend, n_agents, steps, causal, has_state):
    torch.manual_seed(0)
    *tokens, state = arguments(1, n_agents * steps, 1, 2, 1)
    resets = (torch.arange(steps) == steps // 2).unsqueeze(0)
    keywords = {"n_agents": n_agents, "causal": causal, "resets": resets, "backend": backend}
    if not has_state:
        assert torch.autograd.gradcheck(lambda *x: retention(*x, torch.tensor([0.7]), **keywords), tokens)
        return
    assert torch.autograd.gradcheck(
        lambda *x: retention(*x[:3], torch.tensor([0.7]), True, initial_state=x[3], **keywords), (*tokens, state)
    )


@pytest.mark.parametrize("backend", FAST)
@settings(max_examples=40, deadline=None)
@given(
    batch_size=st.sampled_from([1, 2, 7, 33]), size=sizes(), heads=st.integers(1, 4),
    d=st.sampled_from([1, 3, 8, 16, 33]), causal=st.booleans(), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_backends_agree_in_float32(backend, batch_size, size, heads, d, causal, seed):
    torch.manual_seed(seed)
    n_agents, steps = size
    *tokens, state = inputs = arguments(batch_size, n_agents * steps, heads, d, d, torch.float32)
    decay, resets = torch.rand(heads), torch.rand(batch_size, steps) < 0.1
    results = []
    for name in (backend, "reference"):
        result = retention(
            *tokens, decay, True, n_agents=n_agents, causal=causal, initial_state=state, resets=resets, backend=name
        )
        results.append((*result, *gradients(*result, inputs)))
    assert_close(*results, tolerance=1e-5)


@pytest.mark.parametrize("backend", FAST)
def test_result_does_not_depend_on_threads_or_strides(backend, monkeypatch):
    torch.manual_seed(0)
    *tokens, state = arguments(7, 24, 2, 5, 3)
    strided = [x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for x in tokens]
    assert not strided[0].is_contiguous()
    monkeypatch.setattr(numba_support, "WORK_PER_THREAD", 1)
    decay = torch.tensor([0.5, 0.9])
    threads, results = torch.get_num_threads(), []
    try:
        for number, inputs in ((1, tokens), (3, tokens), (3, strided)):
            torch.set_num_threads(number)
            result = retention(*inputs, decay, True, n_agents=3, initial_state=state, backend=backend)
            results.append((*result, *gradients(*result, [*inputs, state])))
    finally:
        torch.set_num_threads(threads)
    assert_close(results[1], results[0], tolerance=1e-12)
    assert_close(results[2], results[0], tolerance=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_of_agents_read_themselves_and_earlier_groups(backend):
    """As Sable does for teams that are split into chunks: groups take the place of time steps that do not decay."""
    torch.manual_seed(0)
    q, k, v, _ = arguments(2, 6, 1, 4, 4)
    y = retention(q, k, v, torch.ones(1), n_agents=2, causal=False, backend=backend)
    for agent in range(6):
        seen = slice(0, agent // 2 * 2 + 2)
        expected = torch.einsum("bhc,bjhc,bjhd->bhd", q[:, agent], k[:, seen], v[:, seen])
        torch.testing.assert_close(y[:, agent], expected, rtol=0, atol=1e-12)


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, list | tuple) else [result]:
            self.numel = max(self.numel, each.numel()) if isinstance(each, torch.Tensor) else self.numel
        return result


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n_agents", [1, 3, 100])
def test_memory_is_linear_in_the_length(n_agents, causal):
    torch.manual_seed(0)
    length, sizes = 30_000 // n_agents * n_agents, {}
    for share in (10, 1):
        *tokens, state = arguments(1, length // share // n_agents * n_agents, 1, 2, 2)
        decay, resets = torch.tensor([0.99]), torch.rand(1, tokens[0].shape[1] // n_agents) < 1e-3
        keywords = {"n_agents": n_agents, "causal": causal, "initial_state": state, "resets": resets}
        with LargestTensor() as largest:
            y, last_state = retention(*tokens, decay, True, backend="reference", **keywords)
            y.sum().backward()
        sizes[share] = largest.numel
    assert sizes[1] < 11 * sizes[10]
    for backend in FAST:
        assert_close(retention(*tokens, decay, True, backend=backend, **keywords), (y, last_state), tolerance=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_float32(dtype):
    torch.manual_seed(0)
    tokens = [x.detach().to(dtype) for x in arguments(2, 300, 2, 4, 4)[:3]]
    y, state = retention(*tokens, torch.tensor([0.9, 1.0]), True, n_agents=3)
    assert y.dtype == dtype and state.dtype == torch.float32
    expected = retention(*(x.float() for x in tokens), torch.tensor([0.9, 1.0]), n_agents=3)
    torch.testing.assert_close(y, expected.to(dtype), rtol=1e-2, atol=1e-2)


def test_mixed_dtypes_are_promoted_to_the_widest_of_the_tokens():
    torch.manual_seed(0)
    q, k, v, _ = (x.detach() for x in arguments(2, 6, 1, 4, 4, torch.float32))
    y = retention(q.bfloat16(), k, v, torch.tensor([0.9], dtype=torch.float64))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, retention(q.bfloat16().float(), k, v, torch.tensor([0.9])))


def test_invalid_arguments_are_rejected():
    *tokens, state = arguments(2, 6, 2, 4, 3)
    decay = torch.tensor([0.5, 0.9])
    for n_agents in (0, 4):
        message = f"n_agents must be at least 1 and divide the number of tokens, 6, not {n_agents}"
        with pytest.raises(ValueError, match=message):
            retention(*tokens, decay, n_agents=n_agents)
    with pytest.raises(ValueError, match="decay must be constant.* pass decay.detach"):
        retention(*tokens, decay.requires_grad_())
    decay = decay.detach()
    with pytest.raises(ValueError, match=r"decay must have shape \(2,\) with q \(2, 6, 2, 4\), not \(1,\)"):
        retention(*tokens, decay[:1])
    with pytest.raises(ValueError, match=r"v must have shape \(2, 6, 2, 3\) .* not \(2, 5, 2, 3\)"):
        retention(*tokens[:2], tokens[2][:, :5], decay)
    with pytest.raises(ValueError, match=r"initial_state must have shape \(2, 2, 4, 3\) .* not \(2, 2, 3, 4\)"):
        retention(*tokens, decay, initial_state=state.mT)
    with pytest.raises(ValueError, match=r"resets must have shape \(2, 3\) .* not \(2, 6\)"):
        retention(*tokens, decay, n_agents=2, resets=torch.zeros(2, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="backend='fla' of retention cannot run here: its kernels are for CUDA"):
        retention(*tokens, decay, backend="fla")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", RETENTION.available("cuda") if torch.cuda.is_available() else ["fla"])
@pytest.mark.parametrize(("n_agents", "length", "causal"), [(1, 8, True), (4, 512, True), (4, 512, False)])
def test_on_cuda_backends_agree_with_the_cpu(backend, n_agents, length, causal):
    torch.manual_seed(0)
    tokens = arguments(7, length, 4, 16, 16, torch.float32)[:3]
    decay = torch.tensor([0.0, 0.5, 0.9, 1.0])
    results = []
    for device, name in (("cuda", backend), ("cpu", "reference")):
        inputs = [x.detach().to(device).requires_grad_() for x in tokens]
        y = retention(*inputs, decay.to(device), n_agents=n_agents, causal=causal, backend=name)
        results.append([x.cpu() for x in (y, *torch.autograd.grad(y.square().sum(), inputs))])
    assert_close(*results, tolerance=1e-3)  # the library multiplies in TF32
