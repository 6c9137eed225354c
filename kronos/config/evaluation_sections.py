"""The sections of the backtest, of further evaluations, of synthetic bars, of a refit and of the daily update."""

from typing import Literal

from pydantic import field_validator

from kronos.config.field_types import (
    Cost,
    CostFraction,
    Float,
    Int,
    OptionalDates,
    OptionalFloat,
    OptionalLimit,
    OptionalNames,
    OptionalText,
    Text,
)
from kronos.config.registries import SIGNALS
from kronos.config.section import Section, field


class BacktestConfig(Section):
    """The simulated portfolio and what it is compared with."""

    backtest_n_symbol_hold: Int = field(50, "instruments held", ge=1)
    backtest_n_symbol_drop: Int = field(5, "most instruments replaced per day", ge=1)
    backtest_hold_thresh: Int = field(5, "least number of days that an instrument is held", ge=1)
    backtest_benchmark: Text = field(
        "auto", "instrument, CSV of closes, equal_weight; auto: a CSI universe's index, else equal weight"
    )
    baseline_seeds: Int = field(20, "random rankings in the band that the report draws", ge=1, le=100)
    baseline_day_step: Int = field(
        0, "days between forecasts of the model before fine-tuning; 0 means the horizon", ge=0
    )
    baseline_lightgbm: bool = field(
        True, "compare with LightGBM on Qlib's Alpha158 features, trained on the same ranges"
    )
    backtest_signal: Text = field(
        "mean", "reduction of the predicted closes that is traded: last, mean, max, min, or a registered one"
    )
    backtest_account: Float = field(1e8, "initial account", gt=0)
    backtest_open_cost: CostFraction = field(
        0.001, "cost of buying, fraction of value; auto: the typical fees and taxes of the market"
    )
    backtest_close_cost: CostFraction = field(
        0.0015, "cost of selling, fraction of value; auto: the typical fees and taxes of the market"
    )
    backtest_min_cost: Cost = field(5.0, "minimum cost per order, in money; auto: the market's own")
    backtest_funding_rate: Float = field(
        0.0,
        "with fewer than five instruments: funding per year, paid on long and received on short positions",
    )
    backtest_deal_price: Literal["open", "close"] = field("open", "price at which orders are filled")
    backtest_limit_threshold: OptionalLimit = field(
        "auto",
        "daily move at which an instrument cannot be traded; auto: 95 % of the limit of its exchange, board and day",
    )
    backtest_delisting_return: OptionalFloat = field(
        None,
        "return from its last close that a share pays which leaves for good, -1 for nothing; none: its last close",
        ge=-1,
    )
    backtest_max_instruments: Int = field(
        0,
        "most instruments that a backtest forecasts, spread evenly over the list of instruments; 0 is all",
        ge=0,
    )
    report_language: Literal["en", "zh", "both"] = field(
        "en", "language of reports: en, zh, or both (the Chinese one as report.zh.html); changes no result"
    )
    walk_forward_folds: Int = field(4, "walk_forward: number of parts of the backtest's days", ge=2, le=50)
    walk_forward_refit: bool = field(True, "walk_forward: train both models again for each part")

    @field_validator("backtest_signal")
    @classmethod
    def _known_signal(cls, value: str) -> str:
        if value not in SIGNALS:
            raise ValueError(f"{value!r} is not one of {', '.join(SIGNALS)}")
        return value


class AuditConfig(Section):
    """The check of the evaluation on known truths."""

    audit_path: Text = field("outputs/audit", "folder of the audit's report")
    audit_seeds: Int = field(400, "audit: repetitions of each case", ge=20, le=10_000)


class GenerateConfig(Section):
    """Synthetic bars."""

    generate_path: Text = field("outputs/generated", "folder of the synthetic bars")
    generate_instruments: Int = field(50, "generate: synthetic instruments", ge=1)
    generate_bars: Int = field(500, "generate: bars per instrument", ge=1)
    generate_T: Float = field(1.0, "generate: sampling temperature", gt=0, le=100)
    generate_top_p: Float = field(1.0, "generate: nucleus kept when sampling; 1 is off", gt=0, le=1)


class EmbedConfig(Section):
    """Vectors of contexts, for other models."""

    embed_path: Text = field("outputs/embeddings", "folder of the vectors")
    embed_time_range: OptionalDates = field(None, "embed: days of the vectors; none: every day of the bars")
    embed_pooling: Literal["last", "mean"] = field(
        "last", "embed: hidden state of the last bar, or the mean over the context"
    )


class HeadConfig(Section):
    """A head on the predictor's hidden states, which answers one question directly."""

    objective: Literal["return", "direction", "volatility", "rank"] = field(
        "return",
        "head: what it answers for the next predict_window bars: the log return, the probability of a rise, the "
        "volatility per bar, or a score that ranks the instruments of a day by their return",
    )
    head_learning_rate: Float = field(
        1e-3, "peak learning rate of the head, and of the adapter that is trained with it", gt=0, le=1
    )
    head_save_folder_name: Text = field(
        "head", "the head's folder in save_path, followed by _ and the objective"
    )
    head_path: OptionalText = field(
        None, "head: folder of a head to use instead of training one, on the predictor that it was trained on"
    )


class BenchmarkConfig(Section):
    """Models side by side on five tasks."""

    benchmark_path: Text = field("outputs/benchmark", "folder of the benchmark's report")
    models: OptionalNames = field(
        None,
        "benchmark: models beside the trained one, by commas: folder, Hub name, runs:/..., models:/..., each with "
        "+TOKENIZER if it needs another; chronos:ADDRESS, garch, or package.module:Class",
    )
    benchmark_bars: Int = field(30, "benchmark: bars of each synthetic series", ge=4)


class RefitConfig(Section):
    """The refit of earlier weights."""

    refit_from: OptionalText = field(
        None,
        "refit: weights to begin from, models:/NAME@champion, a predictor's folder or runs:/...; none: the champion "
        "of registered_model_name",
    )


class UpdateConfig(Section):
    """The daily update."""

    update_forecast: bool = field(False, "update: forecast the next bars too, and score earlier forecasts")
    forecast_log_path: Text = field("outputs/forecast_log", "folder of past forecasts and their scorecard")
