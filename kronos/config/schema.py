"""Every knob of the project, once: name, type, default, limits and help, in one frozen model.

The command line, the JSON files, MLproject, MLflow's parameters and a search all spell a field as it is spelt
here. Building a `Config` checks every field and reports all problems together.
"""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from kronos.config.validation import contradictions

GROUPS = (
    "data", "model", "training", "launch", "output", "forecast", "backtest", "tracking", "registry", "search",
)  # fmt: skip
FEATURES = ("open", "high", "low", "close", "vol", "amt")
TIME_FEATURES = ("minute", "hour", "weekday", "day", "month")
BUILT_IN_SOURCES = ("sample", "qlib", "sina", "csv")

# What a given value of a field would need that this version does not have: refused, never silently ignored.
NOT_YET: dict[str, Any] = {
    "feature_list": lambda value: tuple(value) != FEATURES,
    "time_feature_list": lambda value: tuple(value) != TIME_FEATURES,
}


def _none(value: Any) -> Any:
    """`none` and empty text stand for no value, on the command line and in MLproject."""
    return None if isinstance(value, str) and value.strip().lower() in ("", "none", "null") else value


def _split(value: Any) -> Any:
    """`a,b` is the text form of a list."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _number(value: Any) -> Any:
    """JSON's true and false are not numbers."""
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    return value


Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number)]
Text = Annotated[str, Field(min_length=1)]
OptionalText = Annotated[str | None, BeforeValidator(_none)]
OptionalFloat = Annotated[float | None, BeforeValidator(_none)]
DateRange = Annotated[tuple[date, date], BeforeValidator(_split)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
OptionalNames = Annotated[tuple[str, ...] | None, BeforeValidator(_split), BeforeValidator(_none)]


def _f(group: str, default: Any, help: str, **limits: Any) -> Any:
    return Field(default=default, description=help, json_schema_extra={"group": group}, **limits)


def _dates(first: str, last: str) -> tuple[date, date]:
    return date.fromisoformat(first), date.fromisoformat(last)


class Config(BaseModel):
    """One run's settings; built with keywords here, from a file and flags by `kronos.config.loading.load_config`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    # data
    data_source: Text = _f("data", "qlib", "source of bars: sample, qlib, sina, csv, or package.module:Class")
    data_path: OptionalText = _f("data", None, "file or folder of bars for data_source=csv")
    qlib_data_path: Text = _f(
        "data", "~/.qlib/qlib_data/cn_data", "folder of a Qlib store for data_source=qlib"
    )
    instrument: Text = _f(
        "data", "csi300", "universe of a Qlib store: csi300, csi500, csi800, csi1000, all, or its own"
    )
    freq: Literal["day", "1min", "5min", "15min", "30min", "60min"] = _f("data", "day", "length of a bar")
    feature_list: Names = _f("data", FEATURES, "columns that the model sees, in its order")
    time_feature_list: Names = _f("data", TIME_FEATURES, "time features that the model sees, in its order")
    dataset_begin_time: date = _f("data", date(2011, 1, 1), "first day of bars to load")
    dataset_end_time: date = _f("data", date(2025, 6, 5), "last day of bars to load")
    train_time_range: DateRange = _f(
        "data", _dates("2011-01-01", "2022-12-31"), "days trained on, all scored"
    )
    val_time_range: DateRange = _f(
        "data", _dates("2022-09-01", "2024-06-30"), "validation days, scored from the first + lookback"
    )
    test_time_range: DateRange = _f(
        "data", _dates("2024-04-01", "2025-06-05"), "test days, scored from the first + lookback"
    )
    backtest_time_range: DateRange = _f(
        "data", _dates("2024-07-01", "2025-06-05"), "days forecast and traded, from the first on"
    )
    calendar: Text = _f("data", "auto", "XNYS, XSHG, XHKG, 24/7, weekdays or another exchange; auto: by fit")
    adjust: Literal["auto", "none", "splits", "factor"] = _f(
        "data", "auto", "prices on one basis: by a factor column, by splits found in them, or as they come"
    )
    embargo: Int = _f("data", 0, "bars left out between what one split scores and the next", ge=0)
    windows_across_days: bool = _f("data", True, "intraday windows may span several days")
    symbols: OptionalNames = _f("data", None, "only these instruments, separated by commas")
    sina_url: Text = _f(
        "data", "https://quotes.sina.cn", "address of the K-line service for data_source=sina"
    )
    sina_factor_url: OptionalText = _f(
        "data", "https://finance.sina.com.cn", "address of its adjustment factors, or none: splits by ratio"
    )
    sina_symbols: OptionalText = _f(
        "data", None, "symbols for data_source=sina: a file or a list; none: the universe of qlib_data_path"
    )
    sina_datalen: Int = _f("data", 1970, "bars asked for, counted back from now", ge=1, le=1970)
    cache_path: Text = _f("data", "outputs/cache", "folder of what was downloaded, topped up only")
    dataset_path: Text = _f("data", "outputs/data", "folder of the bar store")
    lookback_window: Int = _f("data", 90, "bars of context", ge=2, le=4096)
    predict_window: Int = _f("data", 10, "bars forecast (the horizon)", ge=1, le=1024)
    max_context: Int = _f("data", 512, "longest context the predictor sees, bars", ge=2)
    clip: Float = _f("data", 5.0, "bound on normalised values, standard deviations", gt=0)
    # model
    model_preset: Literal["nano", "mini", "small", "base", "large"] = _f(
        "model", "small", "shape of a model trained from random weights"
    )
    pretrained_tokenizer_path: OptionalText = _f(
        "model",
        "NeoQuasar/Kronos-Tokenizer-base",
        "weights to fine-tune: folder, Hub name, or none for random",
    )
    pretrained_predictor_path: OptionalText = _f(
        "model", "NeoQuasar/Kronos-small", "weights to fine-tune: folder, Hub name, or none for random"
    )
    # training
    epochs: Int = _f("training", 30, "passes of n_train_iter windows", ge=1)
    batch_size: Int = _f("training", 50, "windows a step and process", ge=1)
    tokenizer_learning_rate: Float = _f("training", 2e-4, "peak learning rate of the tokenizer", gt=0, le=1)
    predictor_learning_rate: Float = _f("training", 4e-5, "peak learning rate of the predictor", gt=0, le=1)
    accumulation_steps: Int = _f("training", 1, "batches a step: multiplies the effective batch", ge=1)
    adam_beta1: Float = _f("training", 0.9, "AdamW's first decay", ge=0, lt=1)
    adam_beta2: Float = _f("training", 0.95, "AdamW's second decay", ge=0, lt=1)
    adam_weight_decay: Float = _f("training", 0.1, "AdamW's weight decay", ge=0)
    n_train_iter: Int = _f("training", 100_000, "training windows an epoch", ge=1)
    n_val_iter: Int = _f("training", 20_000, "validation windows, the same at each epoch", ge=1)
    early_stopping_patience: Int = _f(
        "training", 0, "epochs without a better val_loss before stopping; 0 is off", ge=0
    )
    loss_bars: Literal["window", "horizon"] = _f("training", "window", "bars that the training loss covers")
    warmup_fraction: Float = _f(
        "training", 0.03, "share of the steps in which the learning rate rises", gt=0, lt=1
    )
    decay_norms_biases: bool = _f(
        "training", True, "weight decay on norms and biases too, as in the public recipe"
    )
    freeze_tokenizer: bool = _f(
        "training", False, "use the pretrained tokenizer as it is, and skip its training"
    )
    freeze_blocks: Int = _f(
        "training", 0, "first predictor blocks left as they are, with the embeddings under them", ge=0
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _f("training", "auto", "number format of training")
    compile: bool = _f("training", False, "compile the model with torch.compile")
    num_workers: Int = _f("training", 0, "threads of each process that gather batches ahead", ge=0)
    seed: Int = _f("training", 100, "seed of weights, windows, draws and forecasts", ge=0, le=2**31 - 1)
    log_interval: Int = _f("training", 100, "steps between reports", ge=1)
    save_windows: Int = _f(
        "training", 20_000, "windows between saves for resuming, beside those at epoch ends; 0 is off", ge=0
    )
    resume: Literal["auto", "never", "must"] = _f(
        "training", "auto", "go on with an unfinished run of the same key"
    )
    # launch
    device: Literal["auto", "cpu", "cuda", "mps"] = _f("launch", "auto", "where the model runs")
    cpu: bool = _f("launch", False, "the same as device=cpu")
    nproc_per_node: Int = _f("launch", 1, "training processes on this machine", ge=1)
    fast_mode: bool = _f("launch", False, "a quick look: epochs / 10, windows / 100, unless given as flags")
    skip_data_process: bool = _f("launch", False, "pipeline: use the stored bars")
    skip_tokenizer: bool = _f("launch", False, "pipeline: use the stored tokenizer")
    skip_predictor: bool = _f("launch", False, "pipeline: use the stored predictor")
    skip_backtest: bool = _f("launch", False, "pipeline: end after training")
    # output
    save_path: Text = _f("output", "outputs/models", "folder of the trained models")
    tokenizer_save_folder_name: Text = _f(
        "output", "finetune_tokenizer_demo", "tokenizer's folder in save_path"
    )
    predictor_save_folder_name: Text = _f(
        "output", "finetune_predictor_demo", "predictor's folder in save_path"
    )
    backtest_result_path: Text = _f("output", "outputs/backtest_results", "folder of the backtests")
    backtest_save_folder_name: Text = _f(
        "output", "finetune_backtest_demo", "backtest's folder in backtest_result_path"
    )
    predict_result_path: Text = _f("output", "outputs/predictions", "folder of the latest forecasts")
    predict_save_folder_name: Text = _f("output", "latest", "their folder in predict_result_path")
    tokenizer_path: OptionalText = _f(
        "output",
        None,
        "tokenizer to use instead of the one just trained: folder, Hub name, runs:/... or models:/...",
    )
    predictor_path: OptionalText = _f(
        "output",
        None,
        "predictor to use instead of the one just trained: folder, Hub name, runs:/... or models:/...",
    )
    # forecast
    inference_T: Float = _f("forecast", 0.6, "sampling temperature", gt=0, le=100)
    inference_top_p: Float = _f("forecast", 0.9, "nucleus kept when sampling; 1 is off", gt=0, le=1)
    inference_top_k: Int = _f("forecast", 0, "tokens kept when sampling; 0 is off", ge=0)
    inference_sample_count: Int = _f("forecast", 5, "sample paths a series", ge=1)
    evaluation_sample_count: Int = _f("forecast", 20, "sample paths a series for calibration", ge=1)
    evaluation_series: Int = _f(
        "forecast", 500, "series of the fixed subset whose paths are kept for calibration", ge=1
    )
    inference_fine_rotary: Literal["public", "trained"] = _f(
        "forecast", "public", "rotary positions of the fine head: none as the public code, or true ones"
    )
    inference_precision: Literal["fp32", "bf16"] = _f(
        "forecast", "fp32", "number format of forecasts; bf16 moved the mean close of a nano model by 0.13 %"
    )
    inference_compile: bool = _f("forecast", False, "torch.compile in forecasts: other by rounding only")
    backtest_batch_size: Int = _f("forecast", 1000, "series forecast at a time", ge=1)
    predict_quantiles: Annotated[tuple[float, ...], BeforeValidator(_split)] = _f(
        "forecast", (0.05, 0.25, 0.5, 0.75, 0.95), "quantiles of the sample paths that predict writes"
    )
    predict_figures: OptionalNames = _f(
        "forecast", None, "instruments that predict draws; none is the first four"
    )
    # backtest
    backtest_n_symbol_hold: Int = _f("backtest", 50, "names held", ge=1)
    backtest_n_symbol_drop: Int = _f("backtest", 5, "names replaced a day at most", ge=1)
    backtest_hold_thresh: Int = _f("backtest", 5, "days a name is held at least", ge=1)
    backtest_benchmark: Text = _f(
        "backtest",
        "auto",
        "instrument, CSV of closes, equal_weight; auto: a CSI universe's index, else equal weight",
    )
    baseline_seeds: Int = _f("backtest", 20, "random rankings in the band that a report draws", ge=1, le=100)
    baseline_day_step: Int = _f(
        "backtest", 0, "days between forecasts of the model before fine-tuning; 0 is the horizon", ge=0
    )
    backtest_signal: Literal["last", "mean", "max", "min"] = _f(
        "backtest", "mean", "reduction of the predicted closes, fixed before the test"
    )
    backtest_account: Float = _f("backtest", 1e8, "money at the start", gt=0)
    backtest_open_cost: Float = _f("backtest", 0.001, "cost of buying, fraction of value", ge=0, lt=1)
    backtest_close_cost: Float = _f("backtest", 0.0015, "cost of selling, fraction of value", ge=0, lt=1)
    backtest_min_cost: Float = _f("backtest", 5.0, "least cost of an order, money", ge=0)
    backtest_deal_price: Literal["open", "close"] = _f("backtest", "open", "price at which orders are filled")
    backtest_limit_threshold: OptionalFloat = _f(
        "backtest", 0.095, "daily move at which a name cannot be traded, or none", gt=0, lt=1
    )
    walk_forward_folds: Int = _f("backtest", 4, "walk_forward: parts of the backtest's days", ge=2, le=50)
    walk_forward_refit: bool = _f("backtest", True, "walk_forward: train both models anew for each part")
    # tracking
    tracking_uri: OptionalText = _f("tracking", None, "MLflow tracking address; none is MLflow's own rule")
    tracking_wait: Int = _f("tracking", 120, "seconds to wait for a tracking server that went away", ge=0)
    experiment_name: Text = _f("tracking", "kronos", "MLflow experiment")
    run_name: OptionalText = _f("tracking", None, "name of the run")
    reuse: bool = _f("tracking", True, "do not repeat a finished stage with the same key")
    # registry
    registered_model_name: OptionalText = _f(
        "registry", None, "name under which a version is registered after a backtest or a search"
    )
    promote: Literal["auto", "force", "never"] = _f(
        "registry",
        "auto",
        "the version becomes @champion where it beats the present one, in any case, or never",
    )
    # search
    search_stage: Literal["tokenizer", "predictor", "both"] = _f(
        "search", "predictor", "stage whose fields are searched"
    )
    n_trials: Int = _f("search", 20, "trials in all", ge=1)
    search_timeout: Int = _f("search", 0, "seconds after which no trial starts; 0 is off", ge=0)
    search_learning_rate: Annotated[tuple[float, float], BeforeValidator(_split)] = _f(
        "search", (1e-6, 1e-3), "log range"
    )
    search_batch_size: Annotated[tuple[int, ...], BeforeValidator(_split)] = _f(
        "search", (16, 32, 64, 128), "choices"
    )
    search_space: OptionalText = _f(
        "search", None, "JSON file of further fields to search: float, log, int, categorical, conditional"
    )
    search_metric: Names = _f(
        "search", ("val_loss",), "what a trial is judged by: val_loss, rank_ic, crps, or two of them"
    )
    search_sampler: Literal["tpe", "random"] = _f("search", "tpe", "how the next trial is chosen")
    search_pruner: Literal["hyperband", "asha", "median", "none"] = _f(
        "search", "hyperband", "how weak trials are stopped"
    )
    search_reports: Int = _f("search", 9, "validations a trial, evenly over its windows", ge=1, le=1000)
    search_trial_timeout: Int = _f("search", 0, "seconds after which a trial fails; 0 is off", ge=0)
    search_repeats: Int = _f("search", 1, "seeds that the best few trials are trained with", ge=1)
    search_top: Int = _f("search", 3, "how many are the best few", ge=1)
    search_heartbeat: Int = _f(
        "search", 20, "seconds between signs of life; a trial silent for thrice that is tried again", ge=1
    )
    search_path: Text = _f("search", "outputs/search", "folder of the studies' answers")
    study_name: Text = _f("search", "auto", "name of the study; auto follows from space and inputs")
    storage: Text = _f(
        "search", "sqlite:///optuna.db", "Optuna's storage address, shared by all machines of a search"
    )
    n_jobs: Int = _f("search", 1, "trials at a time on this machine", ge=1)

    @field_validator("*")
    @classmethod
    def _refuse_what_is_not_there(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        if name == "data_source" and value not in BUILT_IN_SOURCES and ":" not in value:
            raise ValueError(
                f"{value!r} is not one of {', '.join(BUILT_IN_SOURCES)}, nor package.module:Class"
            )
        if name in NOT_YET and NOT_YET[name](value):
            raise ValueError("this value is not available yet")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> "Config":
        problems = list(contradictions(self))
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def window_length(self) -> int:
        """Bars of a training window: lookback + horizon + the next token that the predictor is trained on."""
        return self.lookback_window + self.predict_window + 1

    @property
    def tokenizer_folder(self) -> Path:
        return Path(self.save_path) / self.tokenizer_save_folder_name

    @property
    def predictor_folder(self) -> Path:
        return Path(self.save_path) / self.predictor_save_folder_name

    @property
    def predict_folder(self) -> Path:
        return Path(self.predict_result_path) / self.predict_save_folder_name

    @property
    def backtest_folder(self) -> Path:
        return Path(self.backtest_result_path) / self.backtest_save_folder_name


def group_of(field: FieldInfo) -> str:
    """The group of section headings in help and tables that a field belongs to."""
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["group"])


def fields_of(*groups: str) -> tuple[str, ...]:
    """Names of the fields of these groups, in the order of definition."""
    return tuple(name for name, field in Config.model_fields.items() if group_of(field) in groups)
