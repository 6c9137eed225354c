"""The sections of the configuration: every field once, with its type, default, limits and help text.

Those of the backtest and of further evaluations are in `evaluation_sections`, that of the search in `search_section`.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, field_validator

from kronos.config.features import FEATURES, Features
from kronos.config.field_types import (
    Float,
    Freq,
    Int,
    Names,
    OptionalDate,
    OptionalDates,
    OptionalFreq,
    OptionalMap,
    OptionalNames,
    OptionalText,
    Text,
    split_text,
)
from kronos.config.registries import SOURCES, TIME_FEATURES
from kronos.config.section import Section, field

ADAPTER_TARGETS = ("attention", "feed-forward", "heads")


class DataConfig(Section):
    """Bars: their source, days, splits and windows."""

    data_source: Text = field(
        "qlib",
        "sample, qlib, csv, auto, sina, akshare, baostock, tushare, yfinance, ccxt, or package.module:Class",
    )
    data_path: OptionalText = field(None, "file or folder of bars for data_source=csv")
    instrument_column: OptionalText = field(
        None, "column of instruments in files, several joined by commas; none: by its name or its values"
    )
    time_column: OptionalText = field(None, "column of times in files; none: by its name or its values")
    volume_column: OptionalText = field(None, "column of volumes in files; none: by its name")
    time_zone: OptionalText = field(None, "zone of times without one, such as UTC; none: the exchange's")
    decimal_sign: Literal["auto", "point", "comma"] = field("auto", "decimal sign of numbers in text files")
    column_names: OptionalMap = field(None, "names of columns: Px=close,...; without a header 1=date,...")
    qlib_data_path: Text = field("~/.qlib/qlib_data/cn_data", "folder of a Qlib store for data_source=qlib")
    instrument: Text = field(
        "csi300", "universe of a Qlib store: csi300, csi500, csi800, csi1000, all, or its own"
    )
    freq: Freq = field(
        "auto", "length of a bar: 1min to 720min, 1h to 12h, day, week, month; auto: as the bars show"
    )
    resample: OptionalFreq = field(
        None,
        "longer bars to make of them, session by session: 30min, 4h, day, week, month; none: as they are",
    )
    hours: Literal["regular", "all"] = field(
        "regular", "regular: bars before and after an exchange's hours are left out; all: they are kept"
    )
    feature_list: Features = field(
        FEATURES,
        "columns that the tokenizer sees: open, high, low, close, and others such as vol, amt, turnover; beside "
        "pretrained weights those that they were trained on",
    )
    time_feature_list: Names = field(
        TIME_FEATURES, "time features that the predictor sees: those of the public models, then calendar ones"
    )
    condition_columns: OptionalNames = field(
        None,
        "columns known at their bar that the predictor is conditioned on, of the source (sector, ...) or from the "
        "bars: size_bucket",
    )
    dataset_begin_time: OptionalDate = field(None, "first day of bars to load; none: the first there is")
    dataset_end_time: OptionalDate = field(None, "last day of bars to load; none: the last there is")
    train_time_range: OptionalDates = field(
        None, "days trained on, all scored; none: the guide's range where it fits the bars, else 60 % of them"
    )
    val_time_range: OptionalDates = field(
        None, "validation days, scored from the first + lookback; none: the guide's, else 20 % of the bars"
    )
    test_time_range: OptionalDates = field(
        None,
        "test days, scored from the first + lookback; none: the guide's up to the last bar, else the last 20 %",
    )
    backtest_time_range: OptionalDates = field(
        None,
        "days forecast and traded, from the first on; none: the guide's up to the last bar, else the last 20 %",
    )
    calendar: Text = field(
        "auto", "XNYS, XSHG, XHKG, 24/7, weekdays, another exchange, or observed from the bars; auto: by fit"
    )
    adjust: Literal["auto", "none", "splits", "factor"] = field(
        "auto",
        "auto: by a factor, adjusted closes or a column of splits; splits: by that column, else by jumps in price",
    )
    embargo: Int = field(0, "bars left out between the scored bars of one split and the next", ge=0)
    holdout_instruments: OptionalNames = field(
        None,
        "instruments kept out of training and validation and scored apart: a share (0.1), a list, or a file",
    )
    windows_across_days: bool = field(True, "intraday windows may span several days")
    symbols: OptionalNames = field(
        None, "only these instruments: a list, a file of them or of instrument,from,to, or history:csi300"
    )
    sina_url: Text = field("https://quotes.sina.cn", "address of the K-line service for data_source=sina")
    sina_factor_url: OptionalText = field("https://finance.sina.com.cn", "address of its factors, or none")
    sina_symbols: OptionalNames = field(
        None, "symbols of data_source=sina: a list or a file of them; none: the universe of qlib_data_path"
    )
    sina_datalen: Int = field(1970, "bars asked for, counted back from now", ge=1, le=1970)
    exchange: Text = field("binance", "exchange of data_source=ccxt")
    least_share: Float = field(0.5, "share of a service's symbols that must come", ge=0, le=1)
    cache_path: Text = field("outputs/cache", "folder of downloaded bars; only missing bars are fetched")
    dataset_path: Text = field("outputs/data", "folder of the bar store")
    lookback_window: Int = field(90, "bars of context", ge=2, le=4096)
    predict_window: Int = field(10, "bars forecast (the horizon)", ge=1, le=1024)
    max_context: Int = field(512, "longest context the predictor sees, bars", ge=2)
    clip: Float = field(5.0, "bound on normalised values, standard deviations", gt=0)

    @field_validator("data_source")
    @classmethod
    def _known_source(cls, value: str) -> str:
        if value.lower() not in SOURCES and ":" not in value:
            raise ValueError(f"{value!r} is not one of {', '.join(SOURCES)}, nor package.module:Class")
        return value


class ModelConfig(Section):
    """The models that training starts from."""

    model_preset: Literal["nano", "mini", "small", "base", "large"] = field(
        "small", "size of the models; given without weights: the public ones, or random ones (nano, large)"
    )
    pretrained_tokenizer_path: OptionalText = field(
        "NeoQuasar/Kronos-Tokenizer-base", "weights to fine-tune: folder, Hub name, or none for random"
    )
    pretrained_predictor_path: OptionalText = field(
        "NeoQuasar/Kronos-small", "weights to fine-tune: folder, Hub name, or none for random"
    )
    condition_block: Int = field(
        1,
        "blocks of the predictor after which condition_columns are added to its hidden states; 0: to the embedded "
        "bars",
        ge=0,
    )


class TrainingConfig(Section):
    """The training loop of both models."""

    epochs: Int = field(30, "passes of n_train_iter windows", ge=1)
    batch_size: Int = field(50, "windows per step per process", ge=1)
    tokenizer_learning_rate: Float = field(2e-4, "peak learning rate of the tokenizer", gt=0, le=1)
    predictor_learning_rate: Float = field(4e-5, "peak learning rate of the predictor", gt=0, le=1)
    accumulation_steps: Int = field(1, "batches accumulated per step: multiplies the effective batch", ge=1)
    adam_beta1: Float = field(0.9, "AdamW's beta1", ge=0, lt=1)
    adam_beta2: Float = field(0.95, "AdamW's beta2", ge=0, lt=1)
    adam_weight_decay: Float = field(0.1, "AdamW's weight decay", ge=0)
    n_train_iter: Int = field(100_000, "training windows per epoch", ge=1)
    window_order: Literal["shuffled", "coverage"] = field(
        "shuffled",
        "shuffled: each epoch is a random choice of windows; coverage: over the epochs every window is used once "
        "before any is repeated",
    )
    balance_windows: Literal["none", "year", "size"] = field(
        "none",
        "year, size: each year, or each tenth of the instruments by mean money traded, has the same number of "
        "windows per epoch, as far as it has so many; none: every window counts the same",
    )
    since: OptionalDate = field(
        None,
        "train on windows whose forecast begins on this day or later; older ones of train_time_range are replayed "
        "(replay_fraction); none: on all",
    )
    replay_fraction: Float = field(
        0.0, "share of an epoch's windows that are older than since; 0: none of them", ge=0, lt=1
    )
    n_val_iter: Int = field(20_000, "validation windows, the same ones in every epoch", ge=1)
    early_stopping_patience: Int = field(
        0, "epochs without a better early_stopping_metric before stopping; 0 is off", ge=0
    )
    early_stopping_metric: Literal["val_loss", "rank_ic", "crps"] = field(
        "val_loss",
        "what the best predictor is chosen by: val_loss, or the rank_ic or crps of forecasts of validation days",
    )
    loss_bars: Literal["window", "horizon"] = field("window", "bars that the training loss covers")
    warmup_fraction: Float = field(
        0.03, "fraction of the steps over which the learning rate warms up", gt=0, lt=1
    )
    lr_schedule: Literal["one_cycle", "warmup_stable_decay"] = field(
        "one_cycle",
        "one_cycle: as the public recipe; warmup_stable_decay: flat until the last decay_fraction of the steps",
    )
    decay_fraction: Float = field(
        0.2, "fraction of the steps over which warmup_stable_decay falls to zero", gt=0, lt=1
    )
    ema_decay: Float = field(
        0.0,
        "decay of an average of the weights, which is then validated and kept; it covers about the last "
        "1 / (1 - ema_decay) steps; 0 is off",
        ge=0,
        lt=1,
    )
    decay_norms_biases: bool = field(True, "weight decay on norms and biases too, as in the public recipe")
    freeze_tokenizer: bool = field(False, "use the pretrained tokenizer unchanged and skip its training")
    freeze_blocks: Int = field(
        0, "number of first predictor blocks that are frozen, with the embeddings", ge=0
    )
    unfreeze_every: Float = field(
        0.0,
        "epochs after which one more predictor block is trained, beginning with heads and last block, embeddings "
        "last; 0: all from the start",
        ge=0,
    )
    layer_decay: Float = field(
        1.0, "factor of the learning rate from each predictor layer to the one below; 1 is off", gt=0, le=1
    )
    adapter: Literal["none", "lora", "dora"] = field(
        "none",
        "train an adapter by peft beside the pretrained weights, which stay: LoRA, or DoRA; it is merged into the "
        "saved weights; none: all weights are trained",
    )
    adapter_rank: Int = field(8, "rank of the adapter's matrices", ge=1)
    adapter_alpha: Float = field(
        16.0, "factor of the adapter: its change is scaled by adapter_alpha / adapter_rank", gt=0
    )
    adapter_targets: Names = field(
        ("attention", "feed-forward"), "linear layers with an adapter: attention, feed-forward, heads"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = field("auto", "number format of training")
    shard: bool = field(
        False,
        "split weights, gradients and optimizer state of the Transformer blocks over the processes (FSDP2), for "
        "models that do not fit otherwise; no effect with one process",
    )
    compile: bool = field(False, "compile the model with torch.compile")
    num_workers: Int = field(0, "threads per process that prefetch batches", ge=0)
    seed: Int = field(100, "seed of weights, windows, draws and forecasts", ge=0, le=2**31 - 1)
    log_interval: Int = field(100, "steps between reports", ge=1)
    save_windows: Int = field(
        20_000, "windows between checkpoints for resuming, in addition to those at epoch ends; 0 is off", ge=0
    )
    resume: Literal["auto", "never", "must"] = field(
        "auto", "resume an unfinished run with the same cache key"
    )

    @field_validator("adapter_targets")
    @classmethod
    def _known_targets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in ADAPTER_TARGETS]
        if unknown or not value or len(set(value)) < len(value):
            given = ",".join(value) or "nothing"
            raise ValueError(f"{given!r} was given, expected some of {', '.join(ADAPTER_TARGETS)}, each once")
        return value


class LaunchConfig(Section):
    """Device, processes, and which stages of the pipeline run."""

    device: Literal["auto", "cpu", "cuda", "mps"] = field("auto", "where the model runs")
    cpu: bool = field(False, "same as device=cpu")
    nproc_per_node: Int = field(1, "processes on this machine", ge=1)
    fast_mode: bool = field(False, "a quick look: fewer epochs, windows and forecasts, unless given as flags")
    skip_data_process: bool = field(False, "pipeline: use the stored bars")
    skip_tokenizer: bool = field(False, "pipeline: use the stored tokenizer")
    skip_predictor: bool = field(False, "pipeline: use the stored predictor")
    skip_calibrate: bool = field(False, "pipeline: do not calibrate the bands")
    skip_backtest: bool = field(False, "pipeline: end after training")


class OutputConfig(Section):
    """Where results are written and which weights are used."""

    save_path: Text = field("outputs/models", "folder of the trained models")
    tokenizer_save_folder_name: Text = field("finetune_tokenizer_demo", "tokenizer's folder in save_path")
    predictor_save_folder_name: Text = field("finetune_predictor_demo", "predictor's folder in save_path")
    backtest_result_path: Text = field("outputs/backtest_results", "folder of the backtests")
    backtest_save_folder_name: Text = field(
        "finetune_backtest_demo", "backtest's folder in backtest_result_path"
    )
    predict_result_path: Text = field("outputs/predictions", "folder of the latest forecasts")
    predict_save_folder_name: Text = field("latest", "their folder in predict_result_path")
    tokenizer_path: OptionalText = field(
        None, "tokenizer to use instead of the one just trained: folder, Hub name, runs:/... or models:/..."
    )
    predictor_path: OptionalNames = field(
        None,
        "predictor to use instead of the one just trained: folder, Hub name, runs:/... or models:/...; several by "
        "commas are an ensemble, whose sample paths are pooled",
    )


class ForecastConfig(Section):
    """How sample paths are drawn."""

    inference_T: Float = field(0.6, "sampling temperature", gt=0, le=100)
    inference_top_p: Float = field(0.9, "nucleus kept when sampling; 1 is off", gt=0, le=1)
    inference_top_k: Int = field(0, "tokens kept when sampling; 0 is off", ge=0)
    inference_sample_count: Int = field(5, "sample paths per series", ge=1)
    evaluation_sample_count: Int = field(20, "sample paths per series for calibration", ge=1)
    evaluation_series: Int = field(
        500, "series of the fixed subset whose paths are kept for calibration", ge=1
    )
    inference_fine_rotary: Literal["public", "trained"] = field(
        "public", "rotary positions of the fine head: none as the public code, or true ones"
    )
    inference_sliding: Literal["exact", "cached"] = field(
        "exact",
        "once context and drawn bars exceed max_context: exact runs the whole window again at every bar, as the "
        "public code; cached drops the oldest bar, many times faster, but later bars still know dropped ones",
    )
    inference_precision: Literal["fp32", "bf16"] = field(
        "fp32",
        "number format of forecasts; bf16 moved the mean close of a nano model by 0.13 %, and is slower on a "
        "processor without bf16 instructions",
    )
    inference_compile: bool = field(False, "torch.compile in forecasts: results differ by rounding only")
    backtest_batch_size: Int = field(1000, "series forecast at a time", ge=1)
    predict_quantiles: Annotated[tuple[float, ...], BeforeValidator(split_text)] = field(
        (0.05, 0.25, 0.5, 0.75, 0.95), "quantiles of the sample paths that predict writes"
    )
    predict_figures: OptionalNames = field(
        None, "instruments that predict and the page of a backtest draw; none: the first four"
    )
    predict_drawdown: Float = field(
        0.1, "fall from the highest close within the horizon whose probability predict writes", gt=0, lt=1
    )
    bands: Literal["calibrated", "raw"] = field(
        "calibrated",
        "quantiles of prices: corrected by the errors on validation days, or of the sample paths alone",
    )
    calibration_series: Int = field(
        1000,
        "validation forecasts whose errors calibrate the bands; a fifth more choose temperatures",
        ge=100,
    )
    calibration_sample_count: Int = field(50, "sample paths per series of calibrated bands", ge=10)


class TrackingConfig(Section):
    """MLflow tracking and reuse."""

    tracking_uri: OptionalText = field(None, "MLflow tracking address; none follows MLflow's own rule")
    tracking_wait: Int = field(120, "seconds to wait for a tracking server that went away", ge=0)
    experiment_name: Text = field("kronos", "MLflow experiment")
    run_name: OptionalText = field(None, "name of the run")
    reuse: bool = field(True, "reuse a finished stage with the same cache key")


class RegistryConfig(Section):
    """The MLflow model registry."""

    registered_model_name: OptionalText = field(
        None, "name under which a version is registered after a backtest or a search"
    )
    promote: Literal["auto", "force", "never"] = field(
        "auto", "auto: the version becomes @champion if it beats the present one; force: always; never"
    )
