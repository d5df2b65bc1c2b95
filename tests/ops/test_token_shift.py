"""The token shift equals its definition on every available backend."""

import pytest
import torch

from rllib_seqmarl.ops.token_shift import TOKEN_SHIFT, token_shift


def arguments(batch_size, length, dim, inputs, has_own, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = [(batch_size, length, dim), (inputs, dim), (inputs, batch_size, length, dim)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes[: 2 + has_own]]


@pytest.mark.parametrize("backend", TOKEN_SHIFT.available())
@pytest.mark.parametrize("has_own", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 4, 3), (4, 1, 3), (3, 5, 7)])
def test_tokens_are_interpolated_towards_their_predecessors(backend, has_own, sizes):
    x, mix, *own = arguments(*sizes, inputs=2, has_own=has_own)
    for m, output in enumerate(token_shift(x, mix, *own, backend=backend)):
        for t in range(sizes[1]):
            before = x[:, t - 1] if t else torch.zeros_like(x[:, 0])
            share = mix[m] + own[0][m, :, t] if has_own else mix[m]
            torch.testing.assert_close(output[:, t], (1 - share) * x[:, t] + share * before)


@pytest.mark.parametrize("backend", TOKEN_SHIFT.available())
@pytest.mark.parametrize("has_own", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1, 2), (4, 1, 3), (3, 5, 2)])
def test_gradients(backend, has_own, sizes):
    inputs = arguments(*sizes, inputs=3, has_own=has_own)
    assert torch.autograd.gradcheck(lambda *args: token_shift(*args, backend=backend), inputs)


@pytest.mark.parametrize("backend", TOKEN_SHIFT.available())
def test_unused_inputs_have_no_gradient(backend):
    x, mix = arguments(2, 3, 4, inputs=2, has_own=False)
    (gradient,) = torch.autograd.grad(token_shift(x, mix, backend=backend)[1].sum(), mix)
    assert not gradient[0].any() and gradient[1].all()


def test_mix_of_the_wrong_shape_is_rejected():
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"mix must have shape \(2, 4\) with x \(2, 3, 4\), not \(2, 1\)"):
        token_shift(x, torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"own must have shape \(2, 2, 3, 4\) with x \(2, 3, 4\), not \(2, 3, 4\)"):
        token_shift(x, torch.zeros(2, 4), x)
