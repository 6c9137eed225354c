"""Which runs a stage's inputs come from."""

from pathlib import Path

from kronos.config import Config
from kronos.registry import ADDRESSES, source_run
from kronos.stages.core import RECORD, read_record
from kronos.stages.seen import record_of_weights

INPUTS = {
    "tokenizer": ("data",),
    "predictor": ("data", "tokenizer"),
    "backtest": ("data", "tokenizer", "predictor"),
    "predict": ("data", "tokenizer", "predictor"),
}


def parents(stage: str, config: Config) -> dict[str, str]:
    """`KIND_run`, the run id of whoever made an input of a stage, as far as its record or its address says."""
    found = {f"{kind}_run": _run_of(kind, config) for kind in INPUTS.get(stage, ())}
    return {name: run for name, run in found.items() if run}


def _run_of(kind: str, config: Config) -> str:
    if kind == "data":
        folder = Path(config.dataset_path)
        return str(read_record(folder).get("run_id", "")) if (folder / RECORD).is_file() else ""
    given = getattr(config, f"{kind}_path")
    if given is None and kind == "tokenizer" and config.freeze_tokenizer:
        given = config.pretrained_tokenizer_path
    if given is None:
        given = str(getattr(config, f"{kind}_folder"))
    elif given.startswith(ADDRESSES):
        return source_run(given, f"{kind}_path", config.tracking_uri).id
    return str(record_of_weights(given).get("run_id", ""))
