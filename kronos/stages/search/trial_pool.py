"""Run each trial in a separate process with its share of the CPU cores and GPUs, and a time limit."""

import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from kronos.config.schema import Config
from kronos.distributed.child_process import ChildProcess
from kronos.distributed.launcher import python_module


class TrialFailed(Exception):
    """A trial ended without a result; the message is the reason."""

    def __init__(self, reason: str, out_of_memory: bool = False) -> None:
        super().__init__(reason)
        self.out_of_memory = out_of_memory


class TrialProcesses:
    """Runs trials, at most `n_jobs` at a time, each with its share of this machine's cores and GPUs."""

    def __init__(self, config: Config) -> None:
        launch, n_jobs = config.launch, config.search.n_jobs
        ranks = launch.nproc_per_node
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = max(1, cores // (n_jobs * ranks))
        gpus = [] if launch.cpu or launch.device in ("cpu", "mps") else _visible_gpus()
        self._free_gpus: SimpleQueue[list[str]] = SimpleQueue()  # one entry per trial that may run at a time
        for job in range(n_jobs):
            places = range(job * ranks, (job + 1) * ranks)
            self._free_gpus.put([gpus[place % len(gpus)] for place in places] if gpus else [])
        self._running: set[ChildProcess] = set()
        self.stopping = False

    def train(
        self, config: Config, record: Callable[[int, dict[str, float]], None], timeout: float, log: Path
    ) -> dict[str, Any]:
        """Run `kronos.stages.search.trial.train` in a separate process and return its result.

        Args:
            config: the configuration of the trial.
            record: called with (step, metrics); an exception that it raises ends the process and is raised here.
            timeout: time limit in seconds, 0 for none.
            log: file for the output of the process.

        Raises:
            TrialFailed: where the trial raised an error, reached its time limit, or its process died.
            KeyboardInterrupt: after `stop`.
        """
        gpus = self._free_gpus.get()
        try:
            return self._train(config, record, timeout, log, gpus)
        finally:
            self._free_gpus.put(gpus)

    def _train(
        self, config: Config, record: Callable[[int, dict[str, float]], None], timeout: float, log: Path,
        gpus: list[str],
    ) -> dict[str, Any]:  # fmt: skip
        variables = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.threads))}
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(gpus))
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            process = ChildProcess(
                python_module("kronos.stages.search.trial_worker"), variables,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output,
            )  # fmt: skip
        timed_out = threading.Event()

        def expire() -> None:
            timed_out.set()
            process.end()

        timer = threading.Timer(timeout, expire) if timeout else None
        self._running.add(process)
        try:
            if self.stopping:  # `stop` may have been called before the process was in the set
                process.end()
            if timer:
                timer.start()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(config.model_dump_json())
                process.stdin.close()
            except BrokenPipeError:  # the process has ended already; the reason is raised below
                pass
            for line in process.stdout:
                message = json.loads(line)
                if "metrics" in message:
                    record(message["step"], message["metrics"])
                elif "error" in message and not timed_out.is_set() and not self.stopping:
                    raise TrialFailed(message["error"], message["out_of_memory"])
                elif "result" in message:
                    return dict(message["result"])
            process.wait()
        finally:
            if timer:
                timer.cancel()
            process.end()
            self._running.discard(process)
            assert process.stdout is not None
            process.stdout.close()
        if self.stopping:
            raise KeyboardInterrupt
        if timed_out.is_set():
            raise TrialFailed(f"time limit: not finished after {timeout:.0f} s (search_trial_timeout)")
        raise TrialFailed(f"its process {process.outcome()}; its output is in {log}", process.out_of_memory())

    def stop(self) -> None:
        """End the processes of all trials; the threads that wait for them then raise KeyboardInterrupt."""
        self.stopping = True
        for process in list(self._running):
            process.end()


def _visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return given[:count] or [str(number) for number in range(count)]
