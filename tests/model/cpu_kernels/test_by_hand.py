"""Hand-written CPU operations have the values, derivatives and probabilities of PyTorch's."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kronos.model.attention import Attention
from kronos.model.cpu_kernels import linear
from kronos.model.cpu_kernels.causal import _Causal, attend_causally
from kronos.model.cpu_kernels.dropout import Dropout
from kronos.model.rotary import Rotary, neighbours, rotate, rotate_neighbours


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's, of scaled queries."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)


def by_head(bars: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """[B, H, T, K] as a projection gives it: in memory by bar."""
    return torch.randn(2, bars, 3, 8, dtype=dtype).transpose(1, 2).requires_grad_()


@pytest.mark.parametrize("bars", (2, 64, 65, 100, 128, 257))  # one block, several, uneven ones, wider ones
def test_causal_attention_in_blocks(bars: int) -> None:
    torch.manual_seed(bars)
    q, k, v = by_head(bars), by_head(bars), by_head(bars)
    own, theirs = _Causal.apply(q, k, v.contiguous(), 0.0), attended(q, k, v)
    torch.testing.assert_close(own, theirs)
    gradient = torch.randn_like(own)
    for one, other in zip(
        torch.autograd.grad(own, (q, k, v), gradient),
        torch.autograd.grad(theirs, (q, k, v), gradient),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("derived", range(1, 8))
@pytest.mark.parametrize("dropout", (0.0, 0.1))
def test_causal_attention_derives_by_what_is_not_frozen(derived: int, dropout: float) -> None:
    torch.manual_seed(derived)
    inputs = [
        by_head(100).detach().contiguous().requires_grad_(bool(derived >> place & 1)) for place in range(3)
    ]
    state = torch.get_rng_state()
    _Causal.apply(*inputs, dropout).square().sum().backward()
    whole = [x.detach().clone().requires_grad_() for x in inputs]
    torch.set_rng_state(state)  # the same masks
    _Causal.apply(*whole, dropout).square().sum().backward()
    for one, other in zip(inputs, whole, strict=True):
        assert torch.equal(one.grad, other.grad) if one.requires_grad else one.grad is None


def test_causal_attention_sees_no_later_bar() -> None:
    torch.manual_seed(0)
    q, k, v = (by_head(200, torch.float32).detach() for _ in range(3))
    before = attend_causally(q, k, v)
    for place in (0, 63, 64, 99, 100, 150):
        k2, v2 = k.clone(), v.clone()
        k2[:, :, place + 1 :], v2[:, :, place + 1 :] = 7.0, -3.0
        assert torch.equal(attend_causally(q, k2, v2)[:, :, : place + 1], before[:, :, : place + 1])


def test_causal_attention_derives_what_its_masks_let_through() -> None:
    q, k, v = by_head(70), by_head(70), by_head(70)
    inputs = [x.detach()[:1, :1, :, :2].clone().requires_grad_() for x in (q, k, v)]

    def masked(*inputs: Tensor) -> Tensor:
        torch.manual_seed(3)  # the same masks at each call
        return _Causal.apply(*inputs, 0.3)

    assert torch.autograd.gradcheck(masked, inputs)


def test_turned_neighbours_give_the_scores_and_derivatives_of_turned_halves() -> None:
    torch.manual_seed(0)
    heads, bars, width = 3, 11, 24
    x = torch.randn(2, bars, width, dtype=torch.float64)
    projections = [torch.nn.Linear(width, width).double() for _ in range(2)]
    tables = Rotary(width // heads).double().tables(bars)

    def scores(side_by_side: bool) -> Tensor:
        if side_by_side:
            rows = [F.linear(x, neighbours(p.weight, heads), neighbours(p.bias, heads)) for p in projections]
            q, k = (rotate_neighbours(part.unflatten(-1, (heads, -1)), tables, 2.0) for part in rows)
            return q @ k.mT / 4
        q, k = (rotate(p(x).unflatten(-1, (heads, -1)).transpose(1, 2), tables) for p in projections)
        return q @ k.mT

    own, theirs = scores(True), scores(False)
    torch.testing.assert_close(own, theirs)
    gradient, weights = torch.randn_like(own), [w for p in projections for w in p.parameters()]
    for one, other in zip(
        torch.autograd.grad(own, weights, gradient),
        torch.autograd.grad(theirs, weights, gradient),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_a_replaced_projection_is_called() -> None:
    class Adapted(linear.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1.0

    torch.manual_seed(0)
    attention = Attention(24, 3)
    x, tables = torch.randn(2, 11, 24), attention.rotary.tables(11)
    plain = attention(x, tables=tables, query_tables=tables)
    adapted = Adapted(24, 24)
    adapted.load_state_dict(attention.q_proj.state_dict())
    attention.q_proj = adapted
    assert not torch.allclose(attention(x, tables=tables, query_tables=tables), plain)
    with torch.no_grad():
        adapted.bias -= 1.0
    torch.testing.assert_close(attention(x, tables=tables, query_tables=tables), plain)


def test_a_hooked_projection_is_called() -> None:
    attention, called = Attention(24, 3), []
    attention.k_proj.register_forward_hook(lambda module, inputs, output: called.append(module))
    tables = attention.rotary.tables(11)
    attention(torch.randn(2, 11, 24), tables=tables, query_tables=tables)
    assert called == [attention.k_proj]


def test_dropout_masks_on_a_cpu_have_the_rate_and_the_scale_of_torchs() -> None:
    torch.manual_seed(0)
    for p in (0.0, 0.1, 0.25, 1.0):
        x = torch.ones(401, 501, requires_grad=True)
        y = Dropout(p)(x)
        y.sum().backward()
        assert (y == 0).float().mean().item() == pytest.approx(p, abs=5e-3)
        assert y.mean().item() == pytest.approx(1.0 if p < 1 else 0.0, abs=1e-2)
        assert x.grad is not None and torch.equal(x.grad, y)
        assert torch.equal(Dropout(p).eval()(x), x)
    for dtype, places in ((torch.float32, 0.05), (torch.bfloat16, 0.07)):
        q, k, v = torch.randn(3, 2, 4, 9, 8).to(dtype)
        q = q * 8**-0.5
        mean = torch.stack([attend_causally(q, k, v, 0.1).float() for _ in range(2000)]).mean(0)
        torch.testing.assert_close(mean, attended(q, k, v).float(), atol=places, rtol=0)


@pytest.fixture
def convolved(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """oneDNN's products on any processor and from one row; holds what went through them."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch is built without oneDNN")
    seen: list[Any] = []
    monkeypatch.setattr(linear, "onednn_is_quicker", lambda: True)
    monkeypatch.setattr(linear, "ROWS", 1)
    apply = linear._Convolved.apply
    monkeypatch.setattr(linear._Convolved, "apply", lambda *inputs: (seen.append(inputs), apply(*inputs))[1])
    return seen


@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("shape", ((1, 64), (7, 64), (3, 50, 64), (2, 3, 5, 64)))
def test_linear_by_convolution(convolved: list[Any], shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = linear.Linear(64, 96, bias=bias)
    x = torch.randn(shape).mT.contiguous().mT.requires_grad_()  # not as it would lie by itself
    own, theirs = layer(x), F.linear(x, layer.weight, layer.bias)
    assert len(convolved) == 1
    assert own.is_contiguous()
    torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)
    gradient, inputs = torch.randn_like(own), (x, *layer.parameters())
    for one, other in zip(
        torch.autograd.grad(own, inputs, gradient), torch.autograd.grad(theirs, inputs, gradient), strict=True
    ):
        assert one.shape == other.shape and one.is_contiguous()
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    layer.weight.requires_grad_(False)  # a frozen layer passes its gradient on
    frozen, expected = (
        torch.autograd.grad(y, x, gradient)[0] for y in (layer(x), F.linear(x, layer.weight, layer.bias))
    )
    torch.testing.assert_close(frozen, expected, atol=1e-4, rtol=1e-4)


def test_a_traced_layer_learns_nothing_of_the_number_of_rows() -> None:
    layer = linear.Linear(64, 64)
    batch = torch.export.Dim("batch", min=2, max=1000)
    program = torch.export.export(layer, (torch.randn(4, 100, 64),), dynamic_shapes=({0: batch},)).module()
    for rows in (2, 50):  # below and above what is quicker by convolution
        x = torch.randn(rows, 100, 64)
        torch.testing.assert_close(program(x), layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:TF32")  # of other devices, when flags are set
def test_linear_by_convolution_is_for_float32_of_wide_layers_alone(convolved: list[Any]) -> None:
    wide, narrow = linear.Linear(64, 64), linear.Linear(64, 20)
    x = torch.randn(9, 64)
    narrow(x), wide.double()(x.double()), wide.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert wide(x).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        wide(x)
    assert not convolved
    wide(x)
    assert len(convolved) == 1
