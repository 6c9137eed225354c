"""What the fields of a configuration must be among themselves; each alone is checked where it is defined."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kronos.config.registries import CALENDAR_FEATURES, TIME_FEATURES

SEARCH_METRICS = ("val_loss", "rank_ic", "crps")
LONGEST_NAME = 256
LONGEST = {"experiment_name": 256, "run_name": 250}  # letters in the columns of MLflow's tables


def contradictions(config: Any) -> Iterator[str]:
    """Yield each contradiction between fields, one sentence a piece."""
    for name in ("train_time_range", "val_time_range", "test_time_range", "backtest_time_range"):
        days = getattr(config, name)
        if days is not None and days[0] > days[1]:
            yield f"{name}: {days[0]} is after {days[1]}"
    first, last = config.dataset_begin_time, config.dataset_end_time
    if first is not None and last is not None and first >= last:
        yield f"dataset_begin_time: {first} is not before dataset_end_time {last}"
    validated, traded = config.val_time_range, config.backtest_time_range
    if validated is not None and traded is not None and traded[0] <= validated[1]:
        yield (
            f"backtest_time_range: {traded[0]} is not after the last validation day {validated[1]}: the best model "
            "was chosen on those days"
        )
    stored = config.resample or config.freq
    if stored in ("day", "week", "month") and not config.windows_across_days:
        yield f"windows_across_days: false needs bars within a day, they are of a {stored}"
    if config.lookback_window > config.max_context:
        yield f"lookback_window: {config.lookback_window} is above max_context {config.max_context}"
    if config.cpu and config.device not in ("auto", "cpu"):
        yield f"cpu: true contradicts device={config.device}"
    if config.replay_fraction and config.since is None:
        yield f"replay_fraction: {config.replay_fraction:g} needs since, the day before which windows are older ones"
    if config.shard and config.precision == "fp16":
        yield "shard: true works with precision fp32 and bf16, not with fp16"
    if config.shard and config.unfreeze_every:
        yield "shard: true contradicts unfreeze_every: sharded weights cannot be unfrozen while training"
    if config.early_stopping_metric == "crps" and config.inference_sample_count < 2:
        yield "early_stopping_metric: crps needs sample paths to compare: give --inference-sample-count 2 or more"
    if config.shard and config.compile:
        yield "shard: true contradicts compile=true"
    if config.backtest_n_symbol_drop > config.backtest_n_symbol_hold:
        yield (
            f"backtest_n_symbol_drop: {config.backtest_n_symbol_drop} is above backtest_n_symbol_hold "
            f"{config.backtest_n_symbol_hold}"
        )
    if config.freeze_tokenizer and config.tokenizer_path is None and config.pretrained_tokenizer_path is None:
        yield "freeze_tokenizer: true needs pretrained_tokenizer_path, which is none"
    if config.tokenizer_save_folder_name == config.predictor_save_folder_name:
        shared = config.tokenizer_save_folder_name
        yield f"tokenizer_save_folder_name: {shared!r} is the predictor's folder too"
    for name in (
        "tokenizer_save_folder_name",
        "predictor_save_folder_name",
        "backtest_save_folder_name",
        "predict_save_folder_name",
        "head_save_folder_name",
    ):
        value = getattr(config, name)
        if Path(value).name != value or value in (".", ".."):
            yield f"{name}: {value!r} is not a plain folder name"
    ensemble = config.predictor_path or ()
    if len(set(ensemble)) < len(ensemble):
        yield f"predictor_path: {','.join(ensemble)} names a predictor twice"
    if len(ensemble) > min(config.inference_sample_count, config.evaluation_sample_count):
        yield (
            f"predictor_path: the paths of {len(ensemble)} predictors are pooled: inference_sample_count "
            f"{config.inference_sample_count} and evaluation_sample_count {config.evaluation_sample_count} must be "
            "as many at least"
        )
    yield from time_feature_problems(config)
    columns = config.condition_columns or ()
    if len(set(columns)) < len(columns):
        yield f"condition_columns: {','.join(columns)} names a column twice"
    yield from name_problems(config)
    yield from registry_problems(config)
    yield from search_problems(config)
    if not config.predict_quantiles or not all(0 <= level <= 1 for level in config.predict_quantiles):
        yield f"predict_quantiles: {config.predict_quantiles} must be levels from 0 to 1"


def time_feature_problems(config: Any) -> Iterator[str]:
    """Yield what is wrong with the list of time features."""
    names, known = config.time_feature_list, (*TIME_FEATURES, *CALENDAR_FEATURES)
    given = ",".join(names) or "nothing"
    if unknown := [name for name in names if name not in known]:
        yield f"time_feature_list: {', '.join(unknown)} is not one of {', '.join(known)}"
    elif len(set(names)) < len(names) or not set(names) & set(TIME_FEATURES):
        yield f"time_feature_list: {given} was given, expected one of {', '.join(TIME_FEATURES)} at least, each once"
    stored = config.resample or config.freq
    if "minutes_to_close" in names and stored in ("day", "week", "month"):
        yield f"time_feature_list: minutes_to_close needs bars within a day, they are of a {stored}"


def name_problems(config: Any) -> Iterator[str]:
    """Yield what MLflow or its database would refuse in the names of the experiment and the run."""
    for field, most in LONGEST.items():
        name = getattr(config, field) or ""
        if any(unicodedata.category(letter) == "Cc" for letter in name):
            yield f"{field}: {name!a} holds a line break or another control character: leave it out"
        elif len(name) > most:
            yield f"{field}: {len(name)} letters were given, expected at most {most}"


def registry_problems(config: Any) -> Iterator[str]:
    """Yield each contradiction between the fields of the model registry."""
    name = config.registered_model_name
    if name is None:
        if config.promote != "auto":
            yield f"promote: {config.promote} needs registered_model_name"
        return
    if set(name) & set("/:@'\"") or name.startswith((".", "m-")) or len(name) > LONGEST_NAME:
        yield (
            f"registered_model_name: {name!r} was given, expected up to {LONGEST_NAME} characters without / : @ and "
            "quotes, beginning with neither a dot nor m-, since models:/NAME@champion is the model's address"
        )
    if len(config.predictor_path or ()) > 1:
        yield "registered_model_name: an ensemble of predictors cannot be registered, only one pair of models"
    if config.skip_backtest:
        yield "registered_model_name: a version is registered after a backtest, and skip_backtest leaves it out"


def search_problems(config: Any) -> Iterator[str]:
    """Yield each contradiction between the search fields; the rest of a space is checked by `search_space`."""
    low, high = config.search_learning_rate
    if not 0 < low < high <= 1:
        yield (
            f"search_learning_rate: {low:g},{high:g} is no range: expected low,high with 0 < low < high <= 1"
        )
    sizes = config.search_batch_size
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        shown = ",".join(map(str, sizes)) or "nothing"
        yield f"search_batch_size: {shown} was given, expected different whole numbers from 1"
    metrics = config.search_metric
    unknown = [name for name in metrics if name not in SEARCH_METRICS]
    if unknown or not 1 <= len(metrics) <= 2 or len(set(metrics)) < len(metrics):
        yield (
            f"search_metric: {','.join(metrics) or 'nothing'} was given, expected one or two of "
            f"{', '.join(SEARCH_METRICS)}"
        )
    if config.search_stage == "both" and "val_loss" in metrics:
        yield (
            "search_metric: val_loss of predictors with different tokenizers cannot be compared (a collapsed "
            "codebook would win): with search_stage=both give rank_ic or crps"
        )
    if config.search_stage == "tokenizer" and set(metrics) - {"val_loss"}:
        yield "search_metric: a tokenizer alone forecasts nothing: with search_stage=tokenizer give val_loss"
    if "crps" in metrics and config.inference_sample_count < 2:
        yield "search_metric: crps needs sample paths to compare: give --inference-sample-count 2 or more"
