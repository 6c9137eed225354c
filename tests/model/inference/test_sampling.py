import numpy as np
import pytest
import torch

from kronos.model.inference.sampling import filter_and_sample, keyed_uniforms


def kept_by_reference(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Probabilities of one row after k, then p, by the definition: sort, sum, keep up to the one that reaches p."""
    p = np.exp(logits / temperature - np.max(logits / temperature))
    if top_k:
        p[p < np.sort(p)[::-1][min(top_k, len(p)) - 1]] = 0
    p /= p.sum()
    if top_p < 1:
        order = np.argsort(-p)
        before = np.concatenate(([0.0], np.cumsum(p[order])[:-1]))
        p[order[before > top_p]] = 0
    return p / p.sum()


@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("top_k", [0, 5, 40, 1000])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
def test_evenly_spread_uniforms_give_the_filtered_distribution(temperature, top_k, top_p):
    logits = torch.randn(64, generator=torch.Generator().manual_seed(top_k)) * 2
    n = 20_000
    uniform = (torch.arange(n) + 0.5) / n
    ids = filter_and_sample(
        logits.expand(n, -1), temperature=temperature, top_k=top_k, top_p=top_p, uniform_R=uniform
    )
    frequency = torch.bincount(ids, minlength=64).numpy() / n
    expected = kept_by_reference(logits.double().numpy(), temperature, top_k, top_p)
    assert (expected[frequency > 0] > 0).all()
    np.testing.assert_allclose(frequency, expected, atol=2 / n)


def test_top_k_and_top_p_both_apply_where_the_public_code_drops_top_p():
    logits = torch.tensor([[4.0, 3.0, 0.0, 0.0, -1.0]]).expand(1000, -1)
    uniform = torch.arange(1000) / 1000
    ids = filter_and_sample(logits, temperature=1.0, top_k=4, top_p=0.8, uniform_R=uniform)
    assert set(ids.tolist()) == {0, 1}
    kronos = pytest.importorskip("model.kronos", reason="the public package is not installed")
    public = kronos.top_k_top_p_filtering(logits[:1].clone(), top_k=4, top_p=0.8)
    assert int(public.isfinite().sum()) == 4


def test_none_turns_a_filter_off():
    logits = torch.randn(50, 30)
    uniform = torch.rand(50)
    off = filter_and_sample(logits, top_k=None, top_p=None, uniform_R=uniform)
    assert torch.equal(off, filter_and_sample(logits, top_k=0, top_p=1.0, uniform_R=uniform))


def test_one_kept_id_is_the_likeliest():
    logits = torch.randn(200, 100)
    logits.scatter_add_(1, logits.argmax(-1, keepdim=True), torch.full((200, 1), 0.1))  # by more than chance
    uniform = torch.rand(200)
    for rules in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-4}):
        assert torch.equal(filter_and_sample(logits, uniform_R=uniform, **rules), logits.argmax(-1))


def test_extreme_uniforms_never_leave_the_kept_ids():
    logits = torch.full((2, 6), 0.0)
    logits[:, 0] = logits[:, 5] = -50.0
    uniform = torch.tensor([0.0, 1 - 2.0**-24])
    ids = filter_and_sample(logits, top_p=0.99, uniform_R=uniform)
    assert ids.tolist() == [1, 4]


def test_keyed_uniforms_depend_on_the_key_alone():
    keys = np.array([7, -3, 2**40], dtype=np.int64)
    all_three = keyed_uniforms(5, keys, 4, 10)
    assert all_three.shape == (3, 4, 10, 2) and all_three.dtype == np.float32
    alone = keyed_uniforms(5, keys[1:2], 2, 6)
    np.testing.assert_array_equal(alone[0], all_three[1, :2, :6])
    assert (keyed_uniforms(6, keys, 4, 10) != all_three).mean() > 0.99


def test_keyed_uniforms_are_uniform_and_uncorrelated():
    u = keyed_uniforms(0, np.arange(20_000), 5, 10).astype(np.float64)
    assert u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    assert np.abs(counts / u.size * 20 - 1).max() < 0.01
    for axis in range(4):
        a = np.moveaxis(u, axis, 0)
        assert abs(np.corrcoef(a[:-1].ravel(), a[1:].ravel())[0, 1]) < 0.01
