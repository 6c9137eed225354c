"""Raw greedy forecasts equal the public code's; the cache changes the work, not the answer."""

import gc
import weakref

import numpy as np
import pytest
import torch
from compiling import needs_compiler
from toy_series import bars, stamps

from kronos.model import PREDICTOR_PRESETS, Kronos
from kronos.model.inference.engine import Engine, engine_for, generate
from kronos.model.inference.fine_head import SingleQuery
from kronos.model.inference.kv_cache import KeyValues, attend_causally
from kronos.utils.errors import UserError


def reference_margins(tokenizer, model, x, stamp, future, max_context):
    """Plain generation with top_k=1, one series at a time, whole window again at every bar: paths and margins.

    Returns ([N, H, F], bool [N]: every top two logits differ by more than 1e-4).
    """
    paths, clear = [], []
    for row in range(len(x)):
        s1, s2 = tokenizer.encode(x[row : row + 1], half=True)
        times, sure = torch.cat((stamp, future), dim=1)[row : row + 1], True
        for _ in range(future.shape[1]):
            end = s1.shape[1]
            part = slice(max(0, end - max_context), end)
            coarse, hidden = model.decode_s1(s1[:, part], s2[:, part], times[:, part])
            chosen = coarse[:, -1].argmax(-1, keepdim=True)
            fine = model.decode_s2(hidden, chosen)[:, -1]
            for logits in (coarse[:, -1], fine):
                best, second = logits.topk(2).values[0].tolist()
                sure &= best - second > 1e-4
            s1 = torch.cat((s1, chosen), dim=1)
            s2 = torch.cat((s2, fine.argmax(-1, keepdim=True)), dim=1)
        part = slice(max(0, s1.shape[1] - max_context), None)
        paths.append(tokenizer.decode((s1[:, part], s2[:, part]), half=True)[0, -future.shape[1] :])
        clear.append(sure)
    return torch.stack(paths), torch.tensor(clear)


# context, horizon, max_context: inside, ending at the edge, crossing it, starting at it, starting beyond it,
# and a horizon as long as the window, so that the context leaves it altogether
CASES = [(20, 6, 64), (20, 6, 26), (20, 9, 24), (24, 7, 24), (40, 5, 24), (10, 12, 12), (30, 13, 13)]


@pytest.mark.parametrize(("length", "horizon", "max_context"), CASES)
@pytest.mark.parametrize("samples", [1, 3])
def test_greedy_forecast_equals_the_public_code(nano, length, horizon, max_context, samples):
    kronos = pytest.importorskip("model.kronos", reason="the public package is not installed")
    tokenizer, predictor = nano
    theirs = [kronos.KronosTokenizer(**tokenizer.config), kronos.Kronos(**predictor.config)]
    for public, ours in zip(theirs, nano, strict=True):
        public.load_state_dict(ours.state_dict())
        public.eval()
    x, stamp, future = bars(8, length), stamps(8, length), stamps(8, horizon, first=length)
    expected = kronos.auto_regressive_inference(
        *theirs, x, stamp, future, max_context, horizon, top_k=1, sample_count=samples
    )[:, -horizon:]
    with torch.no_grad():
        _, clear = reference_margins(tokenizer, predictor, x, stamp, future, max_context)
    assert int(clear.sum()) >= 6, "of 8 series at most 2 have a near tie"
    ours = generate(tokenizer, predictor, x, stamp, future, horizon=horizon, max_context=max_context,
                    top_k=1, sample_count=samples)  # fmt: skip
    assert ours.shape == (8, samples, horizon, 6)
    np.testing.assert_allclose(ours.mean(1)[clear].numpy(), expected[clear.numpy()], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("length", "horizon", "max_context"), CASES)
def test_fine_head_with_trained_positions_equals_full_teacher_forced_passes(
    nano, length, horizon, max_context
):
    tokenizer, predictor = nano
    x, stamp, future = bars(4, length), stamps(4, length), stamps(4, horizon, first=length)
    for samples in (1, 2):
        ours = generate(tokenizer, predictor, x, stamp, future, horizon=horizon, max_context=max_context,
                        top_k=1, sample_count=samples, fine_rotary="trained")  # fmt: skip
        s1, s2 = tokenizer.encode(x, half=True)
        times = torch.cat((stamp, future), dim=1)
        with torch.no_grad():
            for _ in range(horizon):
                part = slice(max(0, s1.shape[1] - max_context), s1.shape[1])
                hidden = predictor.hidden(s1[:, part], s2[:, part], times[:, part])
                chosen = predictor.coarse_logits(hidden).argmax(-1)
                fine = predictor.fine_logits(hidden, chosen)[:, -1:].argmax(-1)
                s1, s2 = torch.cat((s1, chosen[:, -1:]), dim=1), torch.cat((s2, fine), dim=1)
            part = slice(max(0, s1.shape[1] - max_context), None)
            expected = tokenizer.decode((s1[:, part], s2[:, part]), half=True)[:, -horizon:]
        for sample in ours.unbind(1):
            torch.testing.assert_close(sample, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", ["mini", pytest.param("small", marks=pytest.mark.slow)])
def test_greedy_forecast_equals_plain_generation_at_public_shapes(shape, nano):
    torch.manual_seed(21)
    arguments = PREDICTOR_PRESETS[shape] | {"s1_bits": 8, "s2_bits": 8}
    predictor, (tokenizer, _) = Kronos(**arguments).eval(), nano
    x, stamp, future = bars(3, 30), stamps(3, 30), stamps(3, 8, first=30)
    for max_context in (64, 34):
        with torch.no_grad():
            expected, clear = reference_margins(tokenizer, predictor, x, stamp, future, max_context)
        assert int(clear.sum()) >= 2
        ours = generate(tokenizer, predictor, x, stamp, future, horizon=8, max_context=max_context, top_k=1,
                        sample_count=2)  # fmt: skip
        for sample in ours.unbind(1):
            torch.testing.assert_close(sample[clear], expected[clear], rtol=0, atol=1e-4)


def test_each_sample_is_the_path_of_its_own_uniforms(nano):
    tokenizer, predictor = nano
    x, stamp, future = bars(3, 20), stamps(3, 20), stamps(3, 8, first=20)
    uniform = torch.rand(3, 4, 8, 2, generator=torch.Generator().manual_seed(1))
    for max_context in (64, 22):
        engine = Engine(tokenizer, predictor, max_context=max_context)
        together = engine(x, stamp, future, uniform_NSH2=uniform)
        for sample in range(4):
            alone = engine(x, stamp, future, uniform_NSH2=uniform[:, sample : sample + 1])
            torch.testing.assert_close(alone[:, 0], together[:, sample], rtol=0, atol=1e-4)
        assert together.std(1).max() > 0.01, "the samples are not all the same"


def test_dropout_and_the_callers_mode_play_no_part(nano):
    tokenizer, _ = nano
    predictor = Kronos(**(PREDICTOR_PRESETS["nano"] | {"ffn_dropout_p": 0.5, "token_dropout_p": 0.5}))
    x, stamp, future = bars(2, 20), stamps(2, 20), stamps(2, 4, first=20)
    paths = []
    for mode in (True, False):
        predictor.train(mode), tokenizer.train(mode)
        generator = torch.Generator().manual_seed(0)
        paths.append(generate(tokenizer, predictor, x, stamp, future, horizon=4, generator=generator))
        assert predictor.training is mode and tokenizer.training is mode
    tokenizer.eval()
    assert torch.equal(*paths)


def test_context_is_run_once_per_series_and_each_new_bar_once(nano, monkeypatch):
    tokenizer, predictor = nano
    engine = Engine(tokenizer, predictor)
    rows = []
    block = engine.stack.blocks[0]
    original = block.qkv
    block.qkv = lambda x: rows.append(x.shape[:-1].numel()) or original(x)
    x, stamp, future = bars(3, 20), stamps(3, 20), stamps(3, 6, first=20)
    engine(x, stamp, future, uniform_NSH2=torch.rand(3, 5, 6, 2))
    assert rows == [3 * 20] + [3 * 5] * 5


def test_bars_beyond_clip_are_clipped_as_the_public_code_does(nano):
    tokenizer, predictor = nano
    x, stamp, future = bars(2, 20), stamps(2, 20), stamps(2, 3, first=20)
    wild = x.clone()
    wild[:, 3] = 50.0
    clipped = wild.clamp(-5, 5)
    a, b = (generate(tokenizer, predictor, v, stamp, future, horizon=3, top_k=1) for v in (wild, clipped))
    assert torch.equal(a, b)


def test_impossible_requests_are_refused_in_words(nano):
    x, stamp, future = bars(1, 20), stamps(1, 20), stamps(1, 9, first=20)
    with pytest.raises(UserError, match="horizon is 9, expected 1 to max_context = 8"):
        generate(*nano, x, stamp, future, horizon=9, max_context=8)
    with pytest.raises(UserError, match="9 future stamps for a horizon of 8"):
        generate(*nano, x, stamp, future, horizon=8)
    with pytest.raises(UserError, match="fine_rotary is 'other', expected one of public, trained"):
        generate(*nano, x, stamp, future, horizon=9, fine_rotary="other")


def test_an_engine_is_kept_until_a_weight_or_an_option_changes_and_freed_with_its_model(nano):
    tokenizer, _ = nano
    predictor = Kronos(**PREDICTOR_PRESETS["nano"])
    engine = engine_for(tokenizer, predictor)
    assert engine_for(tokenizer, predictor) is engine
    assert engine_for(tokenizer, predictor, max_context=9) is not engine
    engine = engine_for(tokenizer, predictor)
    with torch.no_grad():
        predictor.head.proj_s2.weight.mul_(1.5)
    changed = engine_for(tokenizer, predictor)
    assert changed is not engine
    predictor.norm.weight.data.mul_(1.5)  # moves no version counter
    assert engine_for(tokenizer, predictor) is not changed
    weak = weakref.ref(predictor)
    del predictor, engine, changed
    gc.collect()
    assert weak() is None


def negate(model):
    with torch.no_grad():
        model.transformer[0].ffn.w1.weight.neg_()


def swap_rows(model):
    with torch.no_grad():
        weight = model.head.proj_s1.weight
        weight[[0, 1]] = weight[[1, 0]]


def load_other_weights(model):
    torch.manual_seed(99)
    model.load_state_dict(Kronos(**PREDICTOR_PRESETS["nano"]).state_dict())


def optimizer_step(model):
    optimizer = torch.optim.AdamW([model.norm.weight], lr=1e-3, fused=True)
    model.norm.weight.grad = torch.ones_like(model.norm.weight)
    optimizer.step()


def data_of_one_value(model):
    model.transformer[1].ffn.w2.weight.data[3, 5] += 1e-2


def data_negated(model):
    model.transformer[0].self_attn.q_proj.weight.data.neg_()


def data_with_swapped_rows(model):
    weight = model.transformer[0].ffn.w1.weight
    weight.data[[2, 7]] = weight.data[[7, 2]]


def data_with_swapped_columns(model):
    weight = model.transformer[0].ffn.w1.weight
    weight.data[:, [2, 7]] = weight.data[:, [7, 2]]


def data_with_swapped_biases(model):
    bias = model.transformer[0].self_attn.q_proj.bias
    bias.data[[2, 7]] = bias.data[[7, 2]]


CHANGES = [negate, swap_rows, load_other_weights, optimizer_step, data_of_one_value, data_negated]
CHANGES += [data_with_swapped_rows, data_with_swapped_columns, data_with_swapped_biases]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_weight_makes_a_new_engine_whose_forecast_is_that_of_a_fresh_one(nano, change):
    tokenizer, _ = nano
    torch.manual_seed(5)
    predictor = Kronos(**PREDICTOR_PRESETS["nano"])
    predictor.transformer[0].self_attn.q_proj.bias.data.normal_()  # zeros so far, which swapping leaves equal
    engine = engine_for(tokenizer, predictor)
    with torch.autocast("cpu", torch.bfloat16):
        assert engine_for(tokenizer, predictor) is engine
    change(predictor)
    changed = engine_for(tokenizer, predictor)
    assert changed is not engine
    assert engine_for(tokenizer, predictor) is changed
    x, stamp, future = bars(2, 20), stamps(2, 20), stamps(2, 3, first=20)
    uniform = torch.rand(2, 1, 3, 2, generator=torch.Generator().manual_seed(1))
    fresh = Engine(tokenizer, predictor)(x, stamp, future, uniform_NSH2=uniform)
    assert torch.equal(changed(x, stamp, future, uniform_NSH2=uniform), fresh)


def test_a_changed_tokenizer_makes_a_new_engine(nano):
    engine = engine_for(*nano)
    weight = nano[0].decoder[0].ffn.w1.weight
    weight.data.neg_()
    assert engine_for(*nano) is not engine
    weight.data.neg_()


def test_models_made_in_inference_mode_have_engines_too(nano):
    with torch.inference_mode():
        predictor = Kronos(**PREDICTOR_PRESETS["nano"])
        engine = engine_for(nano[0], predictor)
        assert engine_for(nano[0], predictor) is engine
        predictor.norm.weight.mul_(2)
        assert engine_for(nano[0], predictor) is not engine


def test_long_windows_attend_as_short_ones_do():
    q, k, v = torch.randn(3, 2, 4, 300, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(attend_causally(q * 8**-0.5, k, v), expected)


def test_bars_asked_once_answer_as_their_keys_and_values_do(nano):
    fine = Engine(*nano).fine
    hidden, newest, token = torch.randn(5, 3, 30, 64, generator=torch.Generator().manual_seed(0)).split(
        (1, 2, 2)
    )
    hidden, newest, token = hidden[0], newest[0, :, :1], token[0, :, :1]
    with torch.inference_mode():
        once, kept = fine.start(hidden, 1, 0), fine.start(hidden, 1, 1)
        assert isinstance(once, SingleQuery) and isinstance(kept, KeyValues)
        torch.testing.assert_close(fine(once, newest, token, 29), fine(kept, newest, token, 29))


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("max_context", [64, 22])
def test_a_compiled_forecast_is_the_same_to_rounding(nano, max_context):
    x, stamp, future = bars(3, 20), stamps(3, 20), stamps(3, 6, first=20)
    uniform = torch.rand(3, 2, 6, 2, generator=torch.Generator().manual_seed(1))
    plain, compiled = (
        Engine(*nano, max_context=max_context, compiled=one)(x, stamp, future, uniform_NSH2=uniform, top_k=1)
        for one in (False, True)
    )
    torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-4)


def banded(window):
    """`scaled_dot_product_attention` in which a bar sees the last `window` bars up to its own, nothing earlier."""

    def attend(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False):
        bars = k.shape[-2]
        visible = torch.ones(bars, bars, dtype=torch.bool).tril().triu(1 - window)
        visible = visible if q.shape[-2] == bars else visible[-1:]
        return F_attention(q, k, v, attn_mask=visible)

    F_attention = torch.nn.functional.scaled_dot_product_attention
    return attend


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("fine_rotary", ["public", "trained"])
@pytest.mark.parametrize(("length", "horizon", "max_context"), [(20, 9, 24), (40, 5, 24), (10, 12, 12)])
def test_a_cache_that_slides_equals_one_pass_over_all_bars_in_which_each_sees_a_window(
    nano, monkeypatch, length, horizon, max_context, fine_rotary, samples
):
    tokenizer, predictor = nano
    x, stamp, future = bars(3, length), stamps(3, length), stamps(3, horizon, first=length)
    ours = generate(tokenizer, predictor, x, stamp, future, horizon=horizon, max_context=max_context, top_k=1,
                    sample_count=samples, fine_rotary=fine_rotary, sliding="cached")  # fmt: skip
    s1, s2 = tokenizer.encode(x, half=True)
    times = torch.cat((stamp, future), dim=1)[:, max(0, length - max_context) :]
    s1, s2 = s1[:, -max_context:], s2[:, -max_context:]
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", banded(max_context))
        # A mask of no padding keeps the model off the path with its own causal kernel.
        for _ in range(horizon):
            seen = torch.zeros(s1.shape, dtype=torch.bool)
            coarse, hidden = predictor.decode_s1(s1, s2, times[:, : s1.shape[1]], padding_mask=seen)
            chosen = coarse.argmax(-1)
            if fine_rotary == "trained":
                fine = predictor.fine_logits(hidden, chosen, seen, "trained")[:, -1:]
            else:
                fine = predictor.decode_s2(hidden, chosen[:, -1:])[:, -1:]
            s1, s2 = torch.cat((s1, chosen[:, -1:]), dim=1), torch.cat((s2, fine.argmax(-1)), dim=1)
    context = tokenizer.encode(x, half=True)
    whole = [torch.cat((one, two[:, -horizon:]), dim=1) for one, two in zip(context, (s1, s2), strict=True)]
    expected = tokenizer.decode(tuple(one[:, -max_context:] for one in whole), half=True)[:, -horizon:]
    for sample in ours.unbind(1):
        torch.testing.assert_close(sample, expected, rtol=0, atol=1e-4)


def test_a_cache_slides_only_once_the_window_is_full(nano):
    x, stamp, future = bars(3, 20), stamps(3, 20), stamps(3, 6, first=20)
    paths = [
        generate(*nano, x, stamp, future, horizon=6, max_context=26, sample_count=2, sliding=sliding,
                 generator=torch.Generator().manual_seed(3))
        for sliding in ("exact", "cached")
    ]  # fmt: skip
    assert torch.equal(*paths)
    with pytest.raises(UserError, match="sliding is 'other', expected one of exact, cached"):
        generate(*nano, x, stamp, future, horizon=6, sliding="other")
