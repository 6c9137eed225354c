"""The worker processes of a run: ranks above 0, which receive their jobs, trainings and forecasts, from rank 0.

Rank 0 starts each one with `python -m kronos.stages.train_worker HOST PORT RANK WORLD`. MLflow and Qlib are not
imported here.
"""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kronos.distributed.child_process import exit_with_parent
from kronos.distributed.launcher import Place, join_group, run_torchrun_worker, run_worker


def under_torchrun() -> None:
    """Run the jobs of rank 0 until it ends. Raises SystemExit where a job failed."""
    if status := run_torchrun_worker(work):
        raise SystemExit(status)


def work(description: dict[str, Any], place: Place) -> None:
    """Take part in one training or set of forecasts as rank `place.rank`; `description` is the job from rank 0."""
    from kronos.utils.interrupts import SIGNALS

    stop = [False]

    def request_stop(signum: int, frame: object) -> None:
        stop[0] = True

    before = {number: signal.signal(number, request_stop) for number in SIGNALS}
    try:
        (_forecast if description["kind"] == "forecast" else _train)(description, place, lambda: stop[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _train(description: dict[str, Any], place: Place, stopped: Callable[[], bool]) -> None:
    import torch.distributed as dist

    from kronos.config.schema import Config
    from kronos.distributed.device import choose
    from kronos.model.presets import build_model
    from kronos.stages.inputs import splits_from_json, stored_bars
    from kronos.stages.train_setup import make_objective, prepare, share_tokenizer, windows
    from kronos.training.settings import FitSettings
    from kronos.training.trainer import fit

    try:
        kind, config = description["kind"], Config.model_validate(description["config"])
        store = stored_bars(config)
        _same_bars(store, description["bars"])
        runtime = choose(config.launch.device, config.launch.cpu, config.training.precision, place)
        splits, forecasts = splits_from_json(description["splits"]), None
        if kind == "head":
            from kronos.stages.head_setup import of_worker

            model, objective, train, validation = of_worker(description, config, store, splits)
        else:
            model = prepare(build_model(kind, description["model"]), config)
            tokenizer = description["tokenizer"] and build_model("tokenizer", description["tokenizer"])
            objective = make_objective(kind, config, tokenizer, description["objective"])
            train, validation = windows(config, store, splits, model)
            if kind == "predictor" and config.training.early_stopping_metric != "val_loss":
                from kronos.stages.validation_forecasts import scored_by_forecasts

                forecasts = scored_by_forecasts(config, store, splits, tokenizer)
        join_group(description["store"], description["number"], place, runtime.device.type == "cuda")
        share_tokenizer(objective, runtime)
        settings = FitSettings(
            config.training, description["learning_rate"], description["clip_norm"],
            settings_key=description["settings_key"],
        )  # fmt: skip
        fit(
            model, objective, train, validation, settings=settings, runtime=runtime,
            folder=Path(), report=lambda step, values: None, resume=description["resume"],
            stop_requested=stopped, forecasts=forecasts,
        )  # fmt: skip
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _forecast(description: dict[str, Any], place: Place, stopped: Callable[[], bool]) -> None:
    """Make shards of the forecasts of rank 0, as many as are left when this process is ready."""
    from torch.distributed import PrefixStore

    from kronos.config.schema import Config
    from kronos.distributed.device import choose
    from kronos.distributed.work_list import WorkList
    from kronos.forecast.shards import make_pieces, read_job, sees_folder
    from kronos.forecast.store_forecaster import Forecaster
    from kronos.stages.inputs import stored_bars

    store = PrefixStore(f"list/{description['number']}", description["store"])
    work = WorkList(store, description["pieces"], place.rank)
    if work.exhausted():
        return
    if not sees_folder(description):
        if not work.exhausted():
            work.decline(f"it does not see {description['folder']}, which needs a shared file system")
        return
    config, folder = Config.model_validate(description["config"]), Path(description["folder"])
    bars = stored_bars(config)
    _same_bars(bars, description["bars"])
    device = choose(config.launch.device, config.launch.cpu, place=place).device
    points, tokenizer, predictor = read_job(folder)
    model = Forecaster(config, bars, tokenizer.to(device).eval(), predictor.to(device).eval())
    files = model.files(points, description["rules"], description["kept"], description["size"], folder)
    make_pieces(work, files, stopped)


def _same_bars(store: Any, digest: str) -> None:
    from kronos.utils.errors import UserError

    if store.digest != digest:
        raise UserError(
            f"the bars in {store.path} on this node are not the same as those of rank 0: all nodes need the same "
            "store, on a shared file system or copied"
        )


def main(arguments: list[str]) -> int:
    """Run a worker process that rank 0 started on the same machine; returns the exit status."""
    exit_with_parent()  # before the imports and the connection, which waits for minutes where rank 0 is gone
    from torch.distributed import TCPStore

    host, port, rank, world = arguments[0], *map(int, arguments[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 receives Ctrl-C and passes it on
    place = Place(rank, world, rank, world)
    return run_worker(place, TCPStore(host, port, None, False), work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
