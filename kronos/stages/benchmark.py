"""The benchmark stage: models side by side on five tasks, on the bars of the backtest range."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kronos.config.schema import Config, fields_of
from kronos.evaluation import benchmark
from kronos.report.leaderboard import write_leaderboard
from kronos.report.saved_content import save
from kronos.stages import looks
from kronos.stages.backtest import signals_digest
from kronos.stages.base import Context, Inputs, Result, Stage
from kronos.stages.cache import write_record
from kronos.stages.compared_models import Compared, compared_models, open_named
from kronos.stages.five_tasks import compare
from kronos.stages.inputs import BY_CONTENT, log_dataset, resolve_splits, stored_bars
from kronos.stages.model_logging import log_inputs
from kronos.stages.report_pages import LANGUAGE
from kronos.stages.weights import trained_models
from kronos.tracking.metric_names import tracked
from kronos.utils.errors import UserError
from kronos.utils.files import atomic_folder, digest_bytes

BEYOND_HORIZON = 4  # least bars of a synthetic series beyond the horizon
KEPT = (
    "backtest_signal", "backtest_max_instruments", "backtest_n_symbol_hold", "backtest_n_symbol_drop",
    "backtest_hold_thresh", "backtest_account", "backtest_open_cost", "backtest_close_cost", "backtest_min_cost",
    "backtest_deal_price", "backtest_limit_threshold", "backtest_delisting_return", "backtest_benchmark",
    "backtest_funding_rate",
)  # fmt: skip


class BenchmarkStage(Stage):
    """Write leaderboard.csv, scores.csv, benchmark.json, benchmark.md and .html: every model on every task."""

    name = "benchmark"
    help = "models side by side: prices, returns, volatility, synthetic bars, portfolio"
    params = (
        *fields_of("data", "benchmark", "tracking"), *KEPT, "report_language",
        "inference_T", "inference_top_p", "inference_top_k", "inference_sample_count", "evaluation_sample_count",
        "evaluation_series", "inference_fine_rotary", "inference_sliding", "inference_precision", "inference_compile",
        "backtest_batch_size", "save_path", "backtest_result_path", "tokenizer_save_folder_name",
        "predictor_save_folder_name",
        "tokenizer_path", "predictor_path", "pretrained_tokenizer_path", "freeze_tokenizer", "seed", "device", "cpu",
        "nproc_per_node",
    )  # fmt: skip
    by_content = (*BY_CONTENT, "models")
    packages = ("torch", "numpy", "pandas", "scipy", "pyqlib", "exchange_calendars")

    def check(self, config: Config) -> None:
        least = config.data.predict_window + BEYOND_HORIZON
        if config.benchmark.benchmark_bars < least:
            raise UserError(
                f"benchmark_bars is {config.benchmark.benchmark_bars}, at least predict_window + {BEYOND_HORIZON} "
                f"({least}) are needed"
            )

    def folder(self, config: Config) -> Path:
        return Path(config.benchmark.benchmark_path)

    def inputs(self, config: Config) -> Inputs:
        store = stored_bars(config)
        splits = resolve_splits(config, store)
        models, notes = trained_models(config, store, splits)
        tokenizer, predictor = models.tokenizer, models.predictor
        named = open_named(config, store, splits)
        before = [one.record.get("started_from", {}).get("digest", "") for one in (tokenizer, predictor)]
        digests = {
            "bars": store.digest, "backtest days": " to ".join(str(day) for day in splits.backtest),
            "tokenizer": tokenizer.digest, "predictor": predictor.digest,
            "before": digest_bytes("/".join(before).encode())[:16], "signals": signals_digest(),
            "benchmark": benchmark.fingerprint(config, store),
            "models": digest_bytes("\n".join(f"{one.name} {one.digest}" for one in named).encode())[:16],
        }  # fmt: skip
        return Inputs(digests, store, splits, models, more=named, notes=notes)

    def run(self, context: Context, inputs: Inputs, key: Mapping[str, Any]) -> Result:
        """Score every model and write the output folder, which is renamed to its final name when complete."""
        config, store, splits, run = context.config, inputs.store, inputs.splits, context.run
        assert store is not None and splits is not None
        log_dataset(context, store, "testing")
        log_inputs(context, **inputs.models.named())
        models, notes = compared_models(config, store, inputs.models, inputs.more, context.shards)
        board = compare(context, inputs, models, notes)
        ledger = looks.ledger_of(config)
        for look in looks_of(config, inputs, models):
            looks.record(ledger, look, run, context.say)
        with atomic_folder(self.folder(config)) as folder:
            save(folder, "benchmark", board=board)
            metrics = write_leaderboard(folder, board, config.backtest.report_language)
            outputs = sorted(
                path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
            )
            record = write_record(
                folder, key, run.id, outputs, {"metrics": metrics, LANGUAGE: config.backtest.report_language}
            )
            run.metrics(0, tracked(self.name, metrics))
            run.artifact(folder)
        context.say(board.text())
        context.say(f"benchmark: report in {self.folder(config) / 'benchmark.md'} (and benchmark.html)")
        return Result(self.name, run.id, self.folder(config), record)


def looks_of(config: Config, inputs: Inputs, models: list[Compared]) -> list[looks.Look]:
    """The looks at the test days: the trained model's, and one for all others with weights that a user named."""
    assert inputs.store is not None and inputs.splits is not None
    days, (tokenizer, predictor) = (
        inputs.splits.backtest,
        (inputs.digests[name] for name in ("tokenizer", "predictor")),
    )
    own = looks.model_digest(config, tokenizer, predictor)
    found = [looks.look_of(looks.BENCHMARK, config, inputs.store, days, predictor, own)]
    if inputs.more:
        others = digest_bytes("\n".join(one.digest for one in inputs.more).encode())[:16]
        found.append(
            looks.look_of(looks.BENCHMARK, config, inputs.store, days, others, others, len(inputs.more))
        )
    return found
