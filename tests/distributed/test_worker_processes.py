"""Pieces of work on several processes: in order, with their errors, and gone when their parent is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from kronos.distributed.worker_processes import on_processes


def place(number: int) -> tuple[int, int, str]:
    time.sleep(0.2 / (1 + number))  # the first piece is the last to end
    return number, os.getpid(), os.environ["OMP_NUM_THREADS"]


def fail(number: int) -> int:
    if number == 1:
        raise ValueError("no luck today")
    return number


def test_results_come_in_order_from_other_processes() -> None:
    found = list(on_processes(place, [(number,) for number in range(5)], 2))
    assert [number for number, *_ in found] == [0, 1, 2, 3, 4]
    pids = {pid for _, pid, _ in found}
    assert len(pids) == 2 and os.getpid() not in pids
    assert {threads for *_, threads in found} == {"1"}
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_a_piece_is_raised(processes: int) -> None:
    results = on_processes(fail, [(number,) for number in range(3)], processes)
    assert next(results) == 0
    with pytest.raises(ValueError, match="no luck today"):
        next(results)


def test_one_piece_or_process_runs_here() -> None:
    with_one = [pid for _, pid, _ in on_processes(here, [(1,), (2,)], 1)]
    assert with_one == [os.getpid()] * 2
    assert [pid for _, pid, _ in on_processes(here, [(1,)], 2)] == [os.getpid()]


def here(number: int) -> tuple[int, int, str]:
    return number, os.getpid(), ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_their_parent(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C of the whole group, or a killed parent, in a script without a guard."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "from kronos.distributed.worker_processes import on_processes\n"
        "def work(number):\n"
        "    open(f'pid{number}', 'w').write(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "list(on_processes(work, [(1,), (2,)], 2))\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stderr=subprocess.DEVNULL, start_new_session=True, cwd=tmp_path
    ) as process:
        deadline, pids = time.monotonic() + 60, [""]
        while not all(pids) or len(pids) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            pids = [path.read_text() for path in tmp_path.glob("pid*")]
        children = [psutil.Process(int(pid)) for pid in pids]
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.kill()
        assert process.wait(30) != 0
        gone, alive = psutil.wait_procs(children, 15)
        assert len(gone) == 2 and not alive
