"""What the fields of a search must be among themselves; the rest of a space is checked by `search_space`."""

from collections.abc import Iterator
from typing import Any

SEARCH_METRICS = ("val_loss", "rank_ic", "crps")


def search_problems(config: Any) -> Iterator[str]:
    """Yield each contradiction between the search fields, one sentence a piece."""
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
