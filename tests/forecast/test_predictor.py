"""KronosPredictor: the public signatures and answers, and what the public one lacks."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch

from kronos.forecast import KronosPredictor
from kronos.model import PREDICTOR_PRESETS, TOKENIZER_PRESETS, Kronos, KronosTokenizer
from kronos.utils.errors import UserError

COLUMNS = ["open", "high", "low", "close", "volume", "amount"]


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(5)
    tokenizer = KronosTokenizer(**TOKENIZER_PRESETS["nano"])
    return KronosPredictor(Kronos(**PREDICTOR_PRESETS["nano"]), tokenizer)


def bars(length: int, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    close = 50 * np.exp(np.cumsum(random.normal(0, 0.01, length)))
    frame = pd.DataFrame({"open": close * 1.001, "high": close * 1.004, "low": close * 0.997, "close": close})
    return frame.assign(volume=random.lognormal(10, 0.5, length), amount=lambda f: f.volume * f.close)


def times(length: int, horizon: int) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    index = pd.bdate_range("2024-01-02", periods=length + horizon)
    return index[:length], index[length:]


def public_predictor(predictor, **arguments):
    public = pytest.importorskip("model", reason="the public package is not installed")
    tokenizer = public.KronosTokenizer(**predictor.tokenizer.config)
    tokenizer.load_state_dict(predictor.tokenizer.state_dict())
    model = public.Kronos(**predictor.model.config)
    model.load_state_dict(predictor.model.state_dict())
    return public.KronosPredictor(model.eval(), tokenizer.eval(), device="cpu", **arguments)


def test_greedy_forecast_equals_the_public_predictors(predictor):
    theirs = public_predictor(predictor)
    for seed in range(3):
        frame, (past, future) = bars(40, seed), times(40, 8)
        ours = predictor.predict(frame, past, future, 8, top_k=1, verbose=False)
        expected = theirs.predict(frame, past.to_series(), future.to_series(), 8, top_k=1, verbose=False)
        assert list(ours.columns) == list(expected.columns)
        np.testing.assert_allclose(ours.to_numpy(), expected.to_numpy(), rtol=1e-4)


def test_greedy_batch_equals_the_public_predictors(predictor):
    frames, (past, future) = [bars(40, seed) for seed in range(3)], times(40, 8)
    stamps = ([past.to_series()] * 3, [future.to_series()] * 3)
    ours = predictor.predict_batch(frames, *stamps, 8, top_k=1, sample_count=2, verbose=False)
    theirs = public_predictor(predictor).predict_batch(
        frames, *stamps, 8, top_k=1, sample_count=2, verbose=False
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.to_numpy(), b.to_numpy(), rtol=1e-4)
        assert a.index.equals(b.index)


@pytest.mark.parametrize("name", ["predict", "predict_batch"])
def test_signatures_begin_as_the_public_ones(name):
    public = pytest.importorskip("model", reason="the public package is not installed")
    theirs = inspect.signature(getattr(public.KronosPredictor, name)).parameters
    ours = inspect.signature(getattr(KronosPredictor, name)).parameters
    assert [(p.name, p.default) for p in theirs.values()] == [
        (p.name, p.default) for p in list(ours.values())[: len(theirs)]
    ]
    assert all(p.kind is p.KEYWORD_ONLY for p in list(ours.values())[len(theirs) :])


def test_datetime_index_is_taken_where_the_public_code_crashes(predictor):
    frame, (past, future) = bars(30), times(30, 4)
    by_index = predictor.predict(frame, past, future, 4, seed=1, verbose=False)
    by_series = predictor.predict(frame, pd.Series(past), pd.Series(future), 4, seed=1, verbose=False)
    by_list = predictor.predict(frame, list(past), list(future.astype(str)), 4, seed=1, verbose=False)
    assert by_index.equals(by_series) and by_index.equals(by_list)
    assert by_index.index.equals(future)
    with pytest.raises(AttributeError, match="dt"):
        public_predictor(predictor).predict(frame, past, future, 4, verbose=False)


def test_dropout_and_mode_do_not_matter_where_the_public_predictor_keeps_dropout(predictor):
    torch.manual_seed(6)
    model = Kronos(**(PREDICTOR_PRESETS["nano"] | {"ffn_dropout_p": 0.5, "resid_dropout_p": 0.5}))
    ours, (past, future) = KronosPredictor(model, predictor.tokenizer), times(30, 4)
    results = []
    for mode in (True, False):
        model.train(mode)
        results.append(ours.predict(bars(30), past, future, 4, top_k=1, verbose=False))
        assert model.training is mode
    assert results[0].equals(results[1])


def test_series_of_unequal_length_come_back_in_their_order(predictor):
    lengths = [30, 45, 30, 20]
    frames = [bars(length, seed) for seed, length in enumerate(lengths)]
    pasts, futures = zip(*(times(length, 5) for length in lengths), strict=True)
    batch = predictor.predict_batch(frames, list(pasts), list(futures), 5, top_k=1, verbose=False)
    for frame, past, future, together in zip(frames, pasts, futures, batch, strict=True):
        alone = predictor.predict(frame, past, future, 5, top_k=1, verbose=False)
        pd.testing.assert_frame_equal(alone, together, rtol=1e-4)


def test_seed_and_generator_repeat_and_nothing_touches_the_global_state(predictor):
    frame, (past, future) = bars(30), times(30, 4)

    def go(**source):
        return predictor.predict(frame, past, future, 4, sample_count=2, verbose=False, **source)

    state = torch.get_rng_state()
    assert go(seed=3).equals(go(seed=3)) and not go(seed=3).equals(go(seed=4))
    first, second = torch.Generator().manual_seed(8), torch.Generator().manual_seed(8)
    assert go(generator=first).equals(go(generator=second))
    assert not go(generator=first).equals(go(seed=3)), "a generator moves on"
    assert not go().equals(go()), "without a seed, each forecast draws anew"
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(UserError, match="seed and generator were both given"):
        go(seed=1, generator=first)


def test_paths_give_samples_quantiles_and_deviation(predictor):
    frame, (past, future) = bars(30), times(30, 6)
    paths = predictor.predict_paths(frame, past, future, 6, sample_count=9, seed=2)
    assert paths.values.shape == (9, 6, 6) and paths.times.equals(future)
    np.testing.assert_allclose(paths.mean(), paths.values.mean(0))
    np.testing.assert_allclose(paths.std().close, paths.values[..., 3].std(0))
    np.testing.assert_allclose(paths.quantile(0.5), np.median(paths.values, axis=0), rtol=1e-6)
    assert (paths.quantile(0.1) <= paths.quantile(0.9)).all(axis=None)
    assert paths.samples().loc[(4, future[2]), "low"] == paths.values[4, 2, 2]
    table = paths.table((0.1, 0.5, 0.9))
    assert list(table.columns[:6]) == COLUMNS
    assert {"close_std", "close_q10", "close_q50", "volume_q90"} < set(table.columns)
    mean = predictor.predict(frame, past, future, 6, sample_count=9, seed=2, verbose=False)
    pd.testing.assert_frame_equal(mean, paths.mean())
    with pytest.raises(UserError, match=r"the quantile is 1\.5"):
        paths.quantile(1.5)


def test_repair_makes_every_path_possible_and_raw_is_the_default(predictor):
    frame, (past, future) = bars(30), times(30, 6)
    frame["volume"] *= np.linspace(0, 1, 30) ** 8
    raw, repaired = (
        predictor.predict_paths(frame, past, future, 6, sample_count=20, seed=2, repair=repair).values
        for repair in (False, True)
    )
    assert raw[..., 4].min() < 0 and repaired[..., 4:].min() >= 0
    assert (repaired[..., 1] >= repaired[..., [0, 3]].max(-1)).all()
    assert (repaired[..., 2] <= repaired[..., [0, 3]].min(-1)).all()
    np.testing.assert_array_equal(repaired[..., [0, 3]], raw[..., [0, 3]])


def test_missing_volume_and_amount_are_as_in_the_public_code(predictor):
    frame, (past, future) = bars(40), times(40, 4)
    theirs = public_predictor(predictor)
    for columns in (COLUMNS[:4], COLUMNS[:5], [*COLUMNS[:4], "amount"]):
        ours = predictor.predict(frame[columns], past, future, 4, top_k=1, verbose=False)
        expected = theirs.predict(
            frame[columns], past.to_series(), future.to_series(), 4, top_k=1, verbose=False
        )
        np.testing.assert_allclose(ours.to_numpy(), expected.to_numpy(), rtol=1e-4)
    short = frame.rename(columns={"volume": "vol", "amount": "amt"})
    assert predictor.predict(short, past, future, 4, top_k=1, verbose=False).equals(
        predictor.predict(frame, past, future, 4, top_k=1, verbose=False)
    )


def test_time_zones_are_read_by_their_own_clock(predictor):
    frame, (past, future) = bars(30), times(30, 4)
    zone = "Asia/Shanghai"
    plain = predictor.predict(frame, past, future, 4, seed=1, verbose=False)
    zoned = predictor.predict(
        frame, past.tz_localize(zone), future.tz_localize(zone), 4, seed=1, verbose=False
    )
    np.testing.assert_array_equal(plain, zoned)
    assert zoned.index.equals(future.tz_localize(zone))


def test_mistakes_are_named(predictor):
    frame, (past, future) = bars(30), times(30, 4)
    hole, text = frame.copy(), frame.astype({"open": object})
    hole.loc[[5, 9], "close"] = np.nan
    text.loc[2, "open"] = "dear"
    swapped = past[[1, 0, *range(2, 30)]]
    for given, message in [
        ((hole, past, future, 4), r"df: close is nan at 5 \(2 such bars\)"),
        ((text, past, future, 4), "df: column open holds object values, expected numbers"),
        ((frame.drop(columns="low"), past, future, 4), "df has no column low: expected open high low close"),
        ((frame.to_numpy(), past, future, 4), "df is a ndarray, expected a DataFrame"),
        ((frame[:1], past[:1], future, 4), "df has 1 bars, expected at least 2"),
        ((frame, past[:-1], future, 4), "df: 30 bars but 29 times in x_timestamp"),
        ((frame, past, future, 5), "df: 4 times in y_timestamp but pred_len is 5"),
        ((frame, swapped, future, 4), "df: x_timestamp does not rise: 2024-01-03 .* followed by 2024-01-02"),
        ((frame, past, past[-4:], 4), "df: y_timestamp begins at 2024-02-07 .* expected after the last bar"),
        ((frame, past, [1.5, "x", None, 2], 4), "df: y_timestamp cannot be read as times"),
        ((frame, past, future.tz_localize("UTC"), 4), "only one of x_timestamp and y_timestamp has a time zone"),
        ((frame, past, future[:0], 0), "df: y_timestamp is empty"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=message):
            predictor.predict(*given, verbose=False)
    with pytest.raises(UserError, match="the lists differ in length: df_list 2, x_timestamp_list 1"):
        predictor.predict_batch([frame, frame], [past], [future], 4, verbose=False)
    with pytest.raises(UserError, match=r"df_list\[1\]: close is nan"):
        predictor.predict_batch([frame, hole], [past] * 2, [future] * 2, 4, verbose=False)
    with pytest.raises(UserError, match="df_list is a DataFrame, expected a list"):
        predictor.predict_batch(frame, past, future, 4, verbose=False)


def test_models_that_do_not_fit_each_other_are_refused(predictor):
    with torch.device("meta"):
        other = Kronos(**PREDICTOR_PRESETS["mini"])
    with pytest.raises(UserError, match=r"tokenizer gives 8\+8 bits, predictor expects 10\+10"):
        KronosPredictor(other, predictor.tokenizer)
