from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from kronos.model.predictor import Kronos
from kronos.model.tokenizer import KronosTokenizer
from kronos.training.objectives import PredictorObjective, TokenizerObjective, cross_entropy, draw
from kronos.utils.errors import UserError

LOOKBACK, HORIZON = 7, 4
BARS = LOOKBACK + HORIZON
TOKENIZER = {
    "d_in": 6,
    "d_model": 16,
    "n_heads": 2,
    "ff_dim": 24,
    "n_enc_layers": 2,
    "n_dec_layers": 2,
    "ffn_dropout_p": 0.0,
    "attn_dropout_p": 0.0,
    "resid_dropout_p": 0.0,
    "s1_bits": 4,
    "s2_bits": 4,
    "beta": 0.05,
    "gamma0": 1.0,
    "gamma": 1.1,
    "zeta": 0.05,
    "group_size": 4,
}
PREDICTOR = {
    "s1_bits": 4,
    "s2_bits": 4,
    "n_layers": 2,
    "d_model": 16,
    "n_heads": 4,
    "ff_dim": 24,
    "ffn_dropout_p": 0.0,
    "attn_dropout_p": 0.0,
    "resid_dropout_p": 0.0,
    "token_dropout_p": 0.0,
    "learn_te": True,
}


def make_batch(windows=5, bars=BARS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    highest = torch.tensor([60, 24, 7, 32, 13])
    return SimpleNamespace(
        x=torch.randn(windows, bars, 6, generator=generator),
        stamp=(torch.rand(windows, bars, 5, generator=generator) * highest).long(),
        window=torch.arange(windows),
        uniform=torch.rand(windows, bars, generator=generator),
    )


def part(batch, rows):
    return SimpleNamespace(**{name: value[rows] for name, value in vars(batch).items()})


@pytest.fixture
def tokenizer():
    torch.manual_seed(1)
    return KronosTokenizer(**TOKENIZER)


@pytest.fixture
def predictor():
    torch.manual_seed(2)
    return Kronos(**PREDICTOR)


@pytest.fixture
def objective(tokenizer):
    return PredictorObjective(tokenizer, LOOKBACK, HORIZON)


def means(score):
    return {name: (total / count).item() for name, (total, count) in score.items() if total.ndim == 0}


def test_tokenizer_loss_equals_the_public_one(tokenizer):
    public = pytest.importorskip("model.kronos", reason="kronos-model-arch is not installed")
    theirs = public.KronosTokenizer(**TOKENIZER)
    theirs.load_state_dict(tokenizer.state_dict())
    batch = make_batch()
    (coarse, full), quantizer, _, _ = theirs(batch.x)
    expected = ((coarse - batch.x).square().mean() + (full - batch.x).square().mean() + quantizer) / 2
    loss, parts = TokenizerObjective(LOOKBACK, HORIZON).loss(tokenizer, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(sum(parts.values()) / 2, loss.detach())


@pytest.mark.parametrize("loss_bars", ["window", "horizon"])
def test_predictor_loss_equals_the_public_one_at_the_same_coarse_draw(tokenizer, predictor, loss_bars):
    public = pytest.importorskip("model.kronos", reason="kronos-model-arch is not installed")
    theirs_tokenizer = public.KronosTokenizer(**TOKENIZER)
    theirs_tokenizer.load_state_dict(tokenizer.state_dict())
    theirs = public.Kronos(**PREDICTOR)
    theirs.load_state_dict(predictor.state_dict())
    batch = make_batch()
    with torch.no_grad():
        coarse, fine = theirs_tokenizer.encode(batch.x, half=True)
        logits, _ = theirs.decode_s1(coarse[:, :-1], fine[:, :-1], batch.stamp[:, :-1])
    given = draw(logits.softmax(-1), batch.uniform[:, 1:])
    s1_logits, s2_logits = theirs(
        coarse[:, :-1], fine[:, :-1], batch.stamp[:, :-1], use_teacher_forcing=True, s1_targets=given
    )
    bars = slice(LOOKBACK - 1, None) if loss_bars == "horizon" else slice(None)
    targets = coarse[:, 1:][:, bars], fine[:, 1:][:, bars]
    expected, expected_coarse, expected_fine = theirs.head.compute_loss(
        s1_logits[:, bars], s2_logits[:, bars], *targets
    )
    loss, parts = PredictorObjective(tokenizer, LOOKBACK, HORIZON, loss_bars).loss(predictor, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(parts["train_coarse"], expected_coarse.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(parts["train_fine"], expected_fine.detach(), rtol=1e-5, atol=0)
    loss.backward()
    expected.backward()
    for (name, ours), other in zip(predictor.named_parameters(), theirs.parameters(), strict=True):
        scale = other.grad.abs().max()
        assert (ours.grad - other.grad).abs().max() <= 1e-5 * scale + 1e-9, name


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("drawn", [True, False])
def test_changing_later_bars_leaves_earlier_terms_unchanged(predictor, objective, training, drawn):
    predictor.train(training)
    batch, place = make_batch(), 6
    with torch.no_grad():
        before = objective.terms(predictor, batch, drawn=drawn)
        changed = part(batch, slice(None))
        changed.x = batch.x.clone()
        changed.stamp, changed.uniform = batch.stamp.clone(), batch.uniform.clone()
        changed.x[:, place + 1 :] = -3 * batch.x[:, place + 1 :].flip(1) + 1
        changed.stamp[:, place + 1 :] = 1
        changed.uniform[:, place + 1 :] = 0.999
        after = objective.terms(predictor, changed, drawn=drawn)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[:, :place], new[:, :place])  # places 0..place-1 predict bars 1..place
        assert not torch.equal(old[:, place:], new[:, place:])


@pytest.mark.parametrize("training", [True, False])
def test_the_first_forecast_bar_has_no_gradient_from_later_inputs(predictor, objective, training):
    predictor.train(training)
    embedded = []

    def keep(module, inputs, output):
        output.retain_grad()
        embedded.append(output)

    hook = predictor.embedding.register_forward_hook(keep)
    coarse, fine = objective.terms(predictor, make_batch(), drawn=False)
    hook.remove()
    (coarse + fine)[:, LOOKBACK - 1].sum().backward()
    gradient = embedded[0].grad
    assert (gradient[:, LOOKBACK:] == 0).all()
    assert (gradient[:, :LOOKBACK].abs().sum(dim=(0, 2)) > 0).all()


@pytest.mark.parametrize("training", [True, False])
def test_tokenizer_score_of_a_bar_has_no_gradient_from_later_bars(tokenizer, training):
    tokenizer.train(training)
    x = make_batch().x.requires_grad_()
    (_, full), _, _, _ = tokenizer(x)
    full[:, LOOKBACK].square().sum().backward()
    assert (x.grad[:, LOOKBACK + 1 :] == 0).all()
    assert (x.grad[:, LOOKBACK].abs() > 0).any()


def test_val_loss_counts_the_horizon_bars_of_each_window(predictor, tokenizer, objective):
    longer = make_batch(bars=BARS + 1)  # one bar more than is scored, as where training needs the next token
    score = objective.score(predictor, longer)
    assert next(iter(score)) == "val_loss"
    assert score["val_loss"][1] == score["val_coarse"][1] == score["val_fine"][1] == 5 * HORIZON
    assert score["val_loss_window"][1] == 5 * BARS
    coarse, fine = objective.terms(predictor, longer, drawn=False)
    by_bar = ((coarse + fine) / 2).detach().double()  # [:, t] is bar t + 1
    forecast = torch.stack([by_bar[:, bar - 1] for bar in range(LOOKBACK, LOOKBACK + HORIZON)])
    assert means(score)["val_loss"] == pytest.approx(forecast.mean().item(), rel=1e-12)
    scored = TokenizerObjective(LOOKBACK, HORIZON).score(tokenizer, longer)
    assert scored["val_loss"][1] == 5 * HORIZON * 6
    assert scored["val_loss_window"][1] == 5 * (BARS + 1) * 6


def test_windows_that_are_too_short_are_refused(predictor, objective, tokenizer):
    short = make_batch(bars=BARS - 1)
    for target, model in ((objective, predictor), (TokenizerObjective(LOOKBACK, HORIZON), tokenizer)):
        with pytest.raises(UserError, match=r"windows have 10 bars, lookback \+ horizon needs 11"):
            target.score(model, short)


def test_tokenizer_val_loss_is_the_squared_error_of_the_full_reconstruction(tokenizer):
    batch = make_batch()
    score = TokenizerObjective(LOOKBACK, HORIZON).score(tokenizer, batch)
    assert next(iter(score)) == "val_loss"
    rebuilt = tokenizer.decode(tokenizer.encode(batch.x))
    expected = (rebuilt - batch.x)[:, LOOKBACK:].double().square().mean().item()
    assert means(score)["val_loss"] == pytest.approx(expected, rel=1e-6)


def test_codebook_use_is_the_share_of_ids_seen(tokenizer):
    batch = make_batch()
    score = TokenizerObjective(LOOKBACK, HORIZON).score(tokenizer, batch)
    for name, ids in zip(
        ("val_coarse_use", "val_fine_use"), tokenizer.encode(batch.x, half=True), strict=True
    ):
        histogram, count = score[name]
        assert histogram.shape == (16,) and histogram.sum() == count == 5 * BARS
        assert set(histogram.nonzero().flatten().tolist()) == set(ids.flatten().tolist())


@pytest.mark.parametrize("kind", ["tokenizer", "predictor"])
def test_score_is_deterministic_and_the_same_for_any_split(kind, tokenizer, predictor, objective):
    target, model = (
        (objective, predictor) if kind == "predictor" else (TokenizerObjective(LOOKBACK, HORIZON), tokenizer)
    )
    batch = make_batch(windows=9)
    whole = target.score(model.eval(), batch)
    again = target.score(model, batch)
    torch.manual_seed(99)  # no draw takes part
    for name in whole:
        assert torch.equal(whole[name][0], again[name][0])
    for sizes in ([4, 5], [1, 7, 1]):
        totals = {name: (torch.zeros_like(total), 0.0) for name, (total, _) in whole.items()}
        start = 0
        for size in sizes:
            for name, (total, count) in target.score(model, part(batch, slice(start, start + size))).items():
                totals[name] = (totals[name][0] + total, totals[name][1] + count)
            start += size
        for name, (total, count) in totals.items():
            assert count == whole[name][1]
            torch.testing.assert_close(total, whole[name][0], rtol=1e-6, atol=0)


def test_score_does_not_depend_on_the_uniforms_and_the_loss_does(predictor, objective):
    batch = make_batch()
    other = part(batch, slice(None))
    other.uniform = 1 - batch.uniform
    assert means(objective.score(predictor, batch)) == means(objective.score(predictor, other))
    assert objective.loss(predictor, batch)[0] != objective.loss(predictor, other)[0]


def test_training_draws_depend_on_the_batch_alone(predictor, objective):
    batch = make_batch()
    torch.manual_seed(3)
    first = objective.loss(predictor, batch)[0]
    torch.manual_seed(4)
    state = torch.get_rng_state()
    assert torch.equal(first, objective.loss(predictor, batch)[0])
    assert torch.equal(state, torch.get_rng_state())


def test_cross_entropy_and_its_derivative_are_torchs():
    torch.manual_seed(0)
    logits = (torch.randn(4, 6, 50) * 20).requires_grad_()
    target = torch.randint(50, (4, 6))
    nats, probabilities = cross_entropy(logits, target)
    expected = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(4, 6)
    torch.testing.assert_close(nats, expected)
    torch.testing.assert_close(probabilities, logits.softmax(-1).detach())
    assert nats.requires_grad and not probabilities.requires_grad
    weights = torch.randn(4, 6)  # bars may count differently
    (own,), (theirs,) = (torch.autograd.grad((loss * weights).sum(), logits) for loss in (nats, expected))
    torch.testing.assert_close(own, theirs)
    with torch.no_grad():
        for with_gradient, without in zip((nats, probabilities), cross_entropy(logits, target), strict=True):
            assert torch.equal(with_gradient, without)
    far = torch.tensor([[0.0, -1e5]])  # its probability is 0 in float32, its nats are not infinite
    assert cross_entropy(far, torch.tensor([1]))[0].item() == 1e5


def test_draws_follow_the_coarse_distribution():
    torch.manual_seed(0)
    logits = torch.randn(3, 8) * 1.5
    logits[1, 2] = -torch.inf  # an id of probability zero
    probabilities = logits.softmax(-1)
    count = 20_000
    uniform = torch.rand(count, 3, generator=torch.Generator().manual_seed(1))
    ids = draw(probabilities.expand(count, 3, 8), uniform)
    for row in range(3):
        observed = torch.bincount(ids[:, row], minlength=8).double()
        expected = probabilities[row].double() * count
        possible = expected > 0
        assert observed[~possible].sum() == 0
        expected = expected[possible] * (count / expected[possible].sum())
        assert stats.chisquare(observed[possible].numpy(), expected.numpy()).pvalue > 1e-3


def test_draws_at_the_ends_stay_on_possible_ids():
    probabilities = torch.tensor([0.0, 0.5, 0.5, 0.0])
    ends = torch.tensor([0.0, 1 - 2**-24, 1.0])
    assert set(draw(probabilities.expand(3, 4), ends).tolist()) <= {1, 2}
    certain = torch.tensor([0.0, 0.0, 1.0])  # a number of ids that is no power of two
    uniform = torch.linspace(0, 1, 1000)
    assert draw(certain.expand(1000, 3), uniform).unique().tolist() == [2]


def test_draws_hardly_ever_depend_on_rounding():
    torch.manual_seed(0)
    logits = torch.randn(20_000, 256)
    uniform = torch.rand(20_000)
    other = logits * (1 + 1e-6 * torch.randn_like(logits))
    first, second = (draw(values.softmax(-1), uniform) for values in (logits, other))
    assert (first != second).sum() <= 2  # from the cumulative sum: about 10


def test_the_tokenizer_is_frozen(predictor, tokenizer, objective):
    objective.loss(predictor, make_batch())[0].backward()
    assert not tokenizer.training
    assert all(parameter.grad is None for parameter in tokenizer.parameters())
    with pytest.raises(UserError, match="loss_bars is 'all'"):
        PredictorObjective(tokenizer, LOOKBACK, HORIZON, "all")


def test_token_ids_are_those_of_float32_whatever_the_autocast():
    torch.manual_seed(0)
    objective = PredictorObjective(KronosTokenizer(**TOKENIZER), LOOKBACK, HORIZON)
    x = make_batch(windows=400).x
    expected = objective.tokens(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = objective.tokens(x)
        lossy = objective.tokenizer.encode(x, half=True)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(lossy, expected, strict=True))  # so the test can fail
