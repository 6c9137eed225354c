"""What a tracking server has not received yet: kept on disk while it is away, sent in order when it is back.

Knows nothing of MLflow: it is given a function that delivers one message and one that tells an absent server from
a refusal. Delivering a message twice must change nothing, since an answer can be lost on its way back.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from kronos.utils.errors import TrackingAway

JOURNAL = "journal.jsonl"
RETRY_SECONDS = 5.0  # at least, between two attempts to reach a server that is away
RETRY_COST = 50.0  # times the length of an attempt until the next one: at most 2 % of the time goes to them
POLL_SECONDS = 2.0  # where nothing else is left to do than to wait
Answer = TypeVar("Answer")
Message = dict[str, Any]
Send = Callable[[str, Message, Path | None], None]


class Journal:
    """The messages of one run that wait to be sent, as lines of JSON in a folder, the files to send beside them.

    A line is {"message": {...}, "file": name or null} or, once the first n messages have been sent, {"sent": n}. A
    process killed while it writes leaves at most a torn last line, which is left out. The folder is locked while
    this object lives, so that only one process sends it.

    Raises:
        filelock.Timeout: where another process holds the folder.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._path = folder, folder / JOURNAL
        self._lock = FileLock(folder / "lock", timeout=0)
        self._lock.acquire()
        self._messages: list[tuple[Message, Path | None]] = []
        self._sent = 0
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if "sent" in row:
                self._sent = int(row["sent"])
            else:
                self._messages.append((row["message"], folder / row["file"] if row["file"] else None))
        self._stream = self._path.open("a", encoding="utf-8")
        if text and not text.endswith("\n"):
            self._stream.write("\n")

    def append(self, message: Message, path: Path | None = None) -> None:
        """Keep a message, and a copy of the file or folder at `path`; on disk when this returns."""
        kept = None
        if path is not None:
            kept = Path("files") / f"{len(self._messages)}" / path.name
            shutil.rmtree(
                self.folder / kept.parent, ignore_errors=True
            )  # of a process killed while it copied
            (self.folder / kept.parent).mkdir(parents=True)
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            copy(path, self.folder / kept)
        self._write({"message": message, "file": kept and kept.as_posix()})
        self._messages.append((message, kept and self.folder / kept))

    def pending(self) -> Iterator[tuple[Message, Path | None]]:
        """What has not been sent, in order; each is taken as sent when the next one is asked for."""
        while self._sent < len(self._messages):
            yield self._messages[self._sent]
            self._sent += 1
            self._write({"sent": self._sent})

    def remove(self) -> None:
        """Delete the folder: everything was sent."""
        self._stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def close(self) -> None:
        """Let other processes have the folder."""
        self._stream.close()
        self._lock.release()

    def _write(self, row: dict[str, Any]) -> None:
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())


class Outbox:
    """Sends messages at once while the server is there, and keeps them in journals, one a run, while it is not.

    Args:
        folder: where journals lie; one a server.
        send: delivers (run id, message, file or None), or raises.
        is_away: whether an error of `send` means that the server is away; any other error is raised to the caller.
        ping: raises where the server is away; asked before kept messages are sent.
        place: the server's name, for the user.
        wait: seconds that may pass in waiting for the server where nothing can go on without it.
        say: takes the lines meant for the user.
        is_refusal: whether an error of `send` means that the server is there and does not take the message; the work
            then goes on without it.
    """

    def __init__(
        self, folder: Path, send: Send, is_away: Callable[[Exception], bool], ping: Callable[[], object], *,
        place: str, wait: float, say: Callable[[str], None],
        is_refusal: Callable[[Exception], bool] = lambda error: False,
    ) -> None:  # fmt: skip
        self.folder, self.patient = folder, False
        self._send, self._is_away, self._ping = send, is_away, ping
        self._place, self._wait, self._say = place, wait, say
        self._is_refusal = is_refusal
        self.refused: dict[str, int] = {}  # messages that the server did not take, by run
        self._journals: dict[str, Journal] = {}
        self._since: float | None = None  # when the server was first missed
        self._next = 0.0  # not tried again before
        self._lock = threading.RLock()  # trials of a search run side by side

    def put(self, run_id: str, message: Message, path: Path | None = None) -> None:
        """Send a message, or keep it until the server is back; the file at `path` may change afterwards."""
        with self._lock:
            if self._since is None and run_id not in self._journals:
                began = time.monotonic()
                try:
                    return self._send(run_id, message, path)
                except Exception as error:
                    if self._is_refusal(error):
                        return self._note_refusal(run_id, error)
                    if not self._is_away(error):
                        raise
                    self._lost(error, began)
            if run_id not in self._journals:
                self._journals[run_id] = Journal(self.folder / run_id)
            self._journals[run_id].append(message, path)
            if time.monotonic() >= self._next:
                self.deliver()

    def deliver(self) -> bool:
        """Try to send everything that is kept; returns whether nothing is left."""
        with self._lock:
            began = time.monotonic()
            try:
                if self._since is not None:
                    self._ping()
                for run_id, journal in list(self._journals.items()):
                    for message, path in journal.pending():
                        began = time.monotonic()
                        try:
                            self._send(run_id, message, path)
                        except Exception as error:
                            if not self._is_refusal(error):
                                raise
                            self._note_refusal(run_id, error)
                    self._journals.pop(run_id).remove()
            except Exception as error:
                if not self._is_away(error):
                    raise
                self._lost(error, began)
                return False
            if self._since is not None:
                away = time.monotonic() - self._since
                self._say(f"MLflow at {self._place} is back after {away:.0f} s: what was kept has been sent")
                self._since = None
            return True

    def now(self, call: Callable[[], Answer]) -> Answer:
        """The answer of a call that cannot be kept for later. Raises TrackingAway as `wait` does."""
        until = None
        while True:
            self.wait()
            began = time.monotonic()
            try:
                return call()
            except Exception as error:
                if not self._is_away(error):
                    raise
                until = began + self._wait if until is None else until
                if began > until:  # it answers, but not this
                    raise self._given_up() from error
                with self._lock:
                    self._lost(error, began)
                time.sleep(POLL_SECONDS)

    def wait(self) -> None:
        """Until everything is sent. Raises TrackingAway where the server is not back in time."""
        until, said = time.monotonic() + self._wait, False
        self.patient = True  # a server that is slow, not away, can take it all
        try:
            while not self.deliver():
                if time.monotonic() >= until:
                    raise self._given_up()
                if not said:
                    self._say(f"  waits up to {self._wait:g} s for MLflow at {self._place}")
                    said = True
                time.sleep(POLL_SECONDS)
        finally:
            self.patient = False

    def leave(self) -> None:
        """Before an end that has another cause: try once, and say where the rest lies."""
        if not self.deliver():
            self._say(f"what MLflow has not received is kept in {self.folder} and sent by the next start")

    def take_over(self) -> None:
        """Send what processes that are gone have left. What a server that is there refuses stays, and is said."""
        for path in sorted(self.folder.glob(f"*/{JOURNAL}")):
            try:
                journal = Journal(path.parent)
            except Timeout:  # its process lives, and sends it
                continue
            run_id, began = path.parent.name, time.monotonic()
            if self._since is not None:
                self._journals[run_id] = journal
                continue
            try:
                for message, file in journal.pending():
                    self._send(run_id, message, file)
            except Exception as error:
                if self._is_away(error) and not self._is_there():
                    self._journals[run_id] = journal  # before anything else of this run
                    self._lost(error, began)
                    continue
                journal.close()
                self._say(
                    f"MLflow at {self._place} does not take what is kept in {path.parent}: {_reason(error)}; "
                    "delete the folder if it is not wanted"
                )
            else:
                journal.remove()
                self._say(f"sent to MLflow what was kept of run {run_id} while it was away")

    def _is_there(self) -> bool:
        try:
            self._ping()
        except Exception as error:
            return not self._is_away(error)
        return True

    def _note_refusal(self, run_id: str, error: Exception) -> None:
        if run_id not in self.refused:
            self._say(
                f"MLflow at {self._place} does not take what run {run_id} reports: {_reason(error)}; the work goes "
                "on, and its tracking is incomplete"
            )
        self.refused[run_id] = self.refused.get(run_id, 0) + 1

    def _given_up(self) -> TrackingAway:
        return TrackingAway(
            f"MLflow at {self._place} was not back within {self._wait:g} s (--tracking-wait): nothing is lost, what "
            f"it has not received is kept in {self.folder} and sent by the next start of any stage; this same "
            "command goes on where it stopped and repeats nothing that is finished"
        )

    def _lost(self, error: Exception, began: float) -> None:
        now = time.monotonic()
        self._next = now + max(RETRY_SECONDS, RETRY_COST * (now - began))
        if self._since is None:
            self._since = began
            self._say(
                f"MLflow at {self._place} is away: the work goes on, and what it reports is kept in {self.folder} "
                f"until then ({_reason(error)})"
            )


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
