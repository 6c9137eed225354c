"""Trials in processes of their own: cores and cards shared out, a time limit, and an honest cause of death."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil

from kronos.config.schema import Config
from kronos.distributed.launcher import python_module

GRACE_SECONDS = 5.0


class TrialFailed(Exception):
    """A trial that ended without a result, with its reason."""

    def __init__(self, reason: str, out_of_memory: bool = False) -> None:
        super().__init__(reason)
        self.out_of_memory = out_of_memory


class TrialProcesses:
    """Runs trials, at most `n_jobs` at a time, each with its share of this machine's cores and cards."""

    def __init__(self, config: Config) -> None:
        ranks = config.nproc_per_node
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = max(1, cores // (config.n_jobs * ranks))
        cards = [] if config.cpu or config.device in ("cpu", "mps") else _cards()
        self._slots: SimpleQueue[list[str]] = SimpleQueue()
        for slot in range(config.n_jobs):
            first = slot * ranks
            self._slots.put(
                [cards[place % len(cards)] for place in range(first, first + ranks)] if cards else []
            )
        self._running: set[subprocess.Popen] = set()
        self.stopping = False

    def train(
        self, config: Config, record: Callable[[int, dict[str, float]], None], timeout: float, log: Path
    ) -> dict[str, Any]:
        """What `kronos.stages.search.trial.train` returns; an exception of `record` ends the process first.

        Raises TrialFailed: an error of the trial's, its time limit, or how its process died.
        """
        cards = self._slots.get()
        try:
            return self._train(config, record, timeout, log, cards)
        finally:
            self._slots.put(cards)

    def _train(
        self, config: Config, record: Callable[[int, dict[str, float]], None], timeout: float, log: Path,
        cards: list[str],
    ) -> dict[str, Any]:  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        if cards:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(cards))
        log.parent.mkdir(parents=True, exist_ok=True)
        kills = _oom_kills()
        with log.open("w") as words:
            process = subprocess.Popen(
                python_module("kronos.stages.search.trial_worker"), env=environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=words, text=True, start_new_session=True,
            )  # fmt: skip
        self._running.add(process)
        late = threading.Event()

        def expire() -> None:
            late.set()
            end(process)

        clock = threading.Timer(timeout, expire) if timeout else None
        try:
            if clock:
                clock.start()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(config.model_dump_json())
                process.stdin.close()
            except BrokenPipeError:  # it died at once; why is said below
                pass
            for line in process.stdout:
                message = json.loads(line)
                if "metrics" in message:
                    record(message["step"], message["metrics"])
                elif "error" in message and not late.is_set() and not self.stopping:
                    raise TrialFailed(message["error"], message["out_of_memory"])
                elif "result" in message:
                    return dict(message["result"])
            process.wait()
        finally:
            if clock:
                clock.cancel()
            end(process)
            self._running.discard(process)
        if self.stopping:
            raise KeyboardInterrupt
        if late.is_set():
            raise TrialFailed(f"time limit: it was not finished after {timeout:.0f} s (search_trial_timeout)")
        code, starved = process.returncode, _oom_kills() > kills
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        why = ", for want of memory (oom_kill)" if starved else ""
        raise TrialFailed(f"its process {how}{why}; its last words are in {log}", starved)

    def stop(self) -> None:
        """End every trial's process; their threads then raise KeyboardInterrupt."""
        self.stopping = True
        for process in list(self._running):
            end(process)


def end(process: subprocess.Popen) -> None:
    """End a trial's process and those that it started: asked first, then forced."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        others = _children(process.pid)
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        _, alive = psutil.wait_procs(others, GRACE_SECONDS)  # ranks leave when their leader does
        for other in alive:
            other.kill()
    if process.stdout is not None:
        process.stdout.close()


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def _cards() -> list[str]:
    """Names of the GPUs that this process may use."""
    import torch

    count = torch.cuda.device_count()
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return given[:count] or [str(number) for number in range(count)]


def _oom_kills() -> int:
    """How often the kernel has ended a process for want of memory; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
