"""Models of any kind behind one interface: shapes, draws of their own for each window, known distributions."""

from pathlib import Path

import numpy as np
import pytest

from kronos.forecast.models import Windows, closes_of, sample_paths
from kronos.forecast.naive_models import Bootstrap, RandomWalk, WindowMean
from kronos.forecast.rollout import roll_out
from kronos.utils.errors import UserError

COUNT, LOOKBACK, HORIZON = 6, 40, 5


def windows(count: int = COUNT, seed: int = 0) -> Windows:
    generator = np.random.default_rng(seed)
    close = 50 * np.exp(0.02 * generator.standard_normal((count, LOOKBACK)).cumsum(axis=1))
    bars = np.stack(
        [close, close * 1.01, close * 0.99, close, np.full_like(close, 1e4), close * 1e4], axis=-1
    )
    stamps = np.zeros((count, LOOKBACK, 5), np.int64)
    return Windows(bars.astype(np.float32), stamps, stamps[:, :HORIZON], np.arange(count) * 77 + 5, 3)


@pytest.mark.parametrize("kind", [RandomWalk, Bootstrap, WindowMean])
def test_a_window_s_paths_do_not_depend_on_the_others(kind: type) -> None:
    given = windows()
    whole = sample_paths("m", kind(), given, 7, whole=True)
    some = sample_paths("m", kind(), given.rows(np.array([4, 1])), 7, whole=True)
    np.testing.assert_array_equal(whole[[4, 1]], some)
    assert closes_of(whole).shape == (COUNT, 7, HORIZON)


def test_a_random_walk_has_no_drift_and_the_volatility_of_its_window() -> None:
    given = windows(1)
    paths = sample_paths("m", RandomWalk(), given, 20_000, whole=True)[0]
    last = given.close[0, -1]
    assert paths.mean(axis=0) == pytest.approx(np.full(HORIZON, last), rel=2e-3)
    deviation = np.log(paths / last).std(axis=0)
    assert deviation / deviation[0] == pytest.approx(np.sqrt(np.arange(1, HORIZON + 1)), rel=0.03)


def test_bootstrapped_bars_are_bars_of_the_window() -> None:
    given = windows(1)
    paths = sample_paths("m", Bootstrap(), given, 50, whole=True)[0]
    before = np.concatenate([np.full((50, 1), given.close[0, -1]), paths[:, :-1, 3]], axis=1)
    moves = (paths[..., 3] / before).ravel()
    own = given.close[0, 1:] / given.close[0, :-1]
    assert np.abs(moves[:, None] - own[None]).min(axis=1).max() < 1e-6
    assert (paths[..., 1] >= paths[..., 3]).all() and np.unique(paths[..., 4]) == pytest.approx([1e4])


def test_wrong_shapes_and_numbers_are_refused_by_name() -> None:
    class Short:
        def forecast(self, windows: Windows, horizon: int, samples: int) -> np.ndarray:
            return np.ones((len(windows.bars), samples, horizon - 1))

    class Empty:
        def forecast(self, windows: Windows, horizon: int, samples: int) -> np.ndarray:
            return np.full((len(windows.bars), samples, horizon), np.nan)

    with pytest.raises(UserError, match=r"the model mine returned paths of the shape \[6, 2, 4\], expected"):
        sample_paths("mine", Short(), windows(), 2, whole=False)
    with pytest.raises(UserError, match="the model mine returned 60 values that are no numbers"):
        sample_paths("mine", Empty(), windows(), 2, whole=False)


def test_a_roll_out_goes_on_from_its_own_bars_with_draws_of_its_own() -> None:
    given = windows()
    long = Windows(given.bars, given.stamps, np.zeros((COUNT, 12, 5), np.int64), given.keys, 3)
    seen = []

    def draw(block: Windows) -> np.ndarray:
        seen.append(block)
        return sample_paths("m", Bootstrap(), block, 1, whole=True)[:, 0]

    bars, repaired = roll_out(draw, long, HORIZON, lambda begin: given.keys + begin)
    assert bars.shape == (COUNT, 12, 6) and repaired == 0
    assert [block.horizon for block in seen] == [5, 5, 2] and all(
        block.bars.shape[1] == LOOKBACK for block in seen
    )
    np.testing.assert_array_equal(seen[1].bars[:, -5:], bars[:, :5])
    moves = bars[:, 5:10, 3] / bars[:, 4:9, 3]
    assert not np.allclose(moves, bars[:, :5, 3] / np.c_[given.bars[:, -1, 3], bars[:, :4, 3]])


def test_paths_of_quantiles_have_these_quantiles_at_every_step() -> None:
    from scipy.stats import norm

    from kronos.forecast.other_models import walk

    levels = [0.1, 0.25, 0.5, 0.75, 0.9]
    deviation = np.array([1.0, 3.0])
    quantiles = 100 + deviation[None, :, None] * norm.ppf(levels)
    uniforms = np.random.default_rng(0).random((1, 100_000, 2))
    paths = walk(quantiles, levels, uniforms)[0]
    assert paths.std(axis=0) == pytest.approx(deviation, rel=0.01)
    for level in (0.05, 0.25, 0.9, 0.95):  # beyond the outermost ones as well
        assert np.quantile(paths, level, axis=0) == pytest.approx(100 + deviation * norm.ppf(level), rel=1e-3)
    correlation = np.corrcoef(paths.T)[0, 1]
    assert correlation == pytest.approx(np.sqrt(1 / 2), abs=0.01)  # of a random walk


def test_garch_paths_have_the_variance_that_arch_forecasts() -> None:
    arch = pytest.importorskip("arch")
    from kronos.forecast.other_models import GarchModel

    given = windows(1, seed=4)
    paths = GarchModel().forecast(given, HORIZON, 20_000)[0]
    returns = np.diff(given.close[0]) / given.close[0, :-1] * 100
    fitted = arch.arch_model(returns, mean="Zero", rescale=False).fit(disp="off", show_warning=False)
    expected = np.sqrt(fitted.forecast(horizon=HORIZON, reindex=False).variance.to_numpy()[0]) / 100
    before = np.concatenate([np.full((20_000, 1), given.close[0, -1]), paths[:, :-1]], axis=1)
    assert (paths / before - 1).std(axis=0) == pytest.approx(expected, rel=0.03)


def tiny_chronos(folder: Path, kind: str) -> Path:
    """A Chronos model of a few hundred random weights."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    shape = {
        "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2,
        "pad_token_id": 0,
        "eos_token_id": 1, "decoder_start_token_id": 0, "initializer_factor": 0.05,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "bolt":
            from chronos.chronos_bolt import ChronosBoltModelForForecasting

            config = T5Config(**shape, vocab_size=2, reg_token_id=1)
            config.chronos_pipeline_class = "ChronosBoltPipeline"
            config.chronos_config = {
                "context_length": 64, "prediction_length": 8, "input_patch_size": 4, "input_patch_stride": 4,
                "quantiles": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], "use_reg_token": True,
            }  # fmt: skip
            ChronosBoltModelForForecasting(config).save_pretrained(folder)
        else:
            config = T5Config(**shape, vocab_size=64)
            config.chronos_pipeline_class = "ChronosPipeline"
            config.chronos_config = {
                "tokenizer_class": "MeanScaleUniformBins",
                "tokenizer_kwargs": {"low_limit": -15.0, "high_limit": 15.0},
                "n_tokens": 64, "n_special_tokens": 2, "pad_token_id": 0, "eos_token_id": 1, "use_eos_token": True,
                "model_type": "seq2seq", "context_length": 64, "prediction_length": 8, "num_samples": 20,
                "temperature": 1.0, "top_k": 50, "top_p": 1.0,
            }  # fmt: skip
            T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bolt", "t5"])
def test_chronos_models_forecast_closes(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("chronos")
    from kronos.forecast.other_models import ChronosModel

    model = ChronosModel(str(tiny_chronos(tmp_path / kind, kind)))
    paths = sample_paths(kind, model, windows(), 9, whole=True)
    again = sample_paths(kind, ChronosModel(str(tmp_path / kind)), windows(), 9, whole=True)
    assert paths.shape == (COUNT, 9, HORIZON) and len(model.digest) == 64
    np.testing.assert_array_equal(paths, again)
    with pytest.raises(UserError, match=r"models: chronos:.*nowhere cannot be loaded"):
        ChronosModel(str(tmp_path / "nowhere"))
