"""Queue of messages for a tracking server: stored on disk while it is unreachable, sent in order when it is back.

This module does not depend on MLflow: it is given a function that sends one message, and one that tells an
unreachable server from a rejected message. Sending a message twice must change nothing, since a response can be lost.
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

from kronos.utils.error_messages import innermost
from kronos.utils.errors import TrackingAway

JOURNAL = "journal.jsonl"
RETRY_SECONDS = 5.0  # minimum time between two attempts to reach the server
RETRY_COST = 50.0  # wait 50 times the duration of a failed attempt: attempts take at most 2 % of the time
POLL_SECONDS = 2.0  # interval of attempts while there is nothing else to do
Answer = TypeVar("Answer")
Message = dict[str, Any]
Send = Callable[[str, Message, Path | None], None]


class Journal:
    """The unsent messages of one run, as JSON lines in a folder that also holds the files to send.

    A line is {"message": {...}, "file": name or null} or, once the first n messages have been sent, {"sent": n}. A
    process that is killed while writing leaves at most an incomplete last line, which is ignored. The folder is
    locked until `close` or `remove`, so that only one process sends it.

    Raises:
        filelock.Timeout: where another process holds the lock.
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
        """Store a message, with a copy of the file or folder at `path`; it is on disk when this returns."""
        kept = None
        if path is not None:
            kept = Path("files") / f"{len(self._messages)}" / path.name
            shutil.rmtree(
                self.folder / kept.parent, ignore_errors=True
            )  # left by a process that was killed while copying
            (self.folder / kept.parent).mkdir(parents=True)
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            copy(path, self.folder / kept)
        self._write({"message": message, "file": kept and kept.as_posix()})
        self._messages.append((message, kept and self.folder / kept))

    def pending(self) -> Iterator[tuple[Message, Path | None]]:
        """Iterate over the unsent messages in order; a message counts as sent when the next one is requested."""
        while self._sent < len(self._messages):
            yield self._messages[self._sent]
            self._sent += 1
            self._write({"sent": self._sent})

    def remove(self) -> None:
        """Delete the folder, after everything has been sent."""
        self._stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def close(self) -> None:
        """Release the lock of the folder, so that other processes can use it."""
        self._stream.close()
        self._lock.release()

    def _write(self, row: dict[str, Any]) -> None:
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())


class Outbox:
    """Sends messages at once while the server is reachable, else stores them in one journal per run.

    Args:
        folder: folder of the journals of one server.
        send: sends (run id, message, file or None), or raises.
        is_away: whether an error of `send` means that the server is unreachable; other errors are raised.
        ping: raises where the server is unreachable; called before stored messages are sent.
        place: name of the server in messages.
        wait: maximum seconds to wait for the server where its response is needed.
        say: called with each line to print.
        is_refusal: whether an error of `send` means that the server rejected the message, which is then dropped.
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
        self.refused: dict[str, int] = {}  # number of rejected messages, by run
        self._journals: dict[str, Journal] = {}
        self._since: float | None = None  # time at which the server became unreachable
        self._next = 0.0  # time of the next attempt
        self._lock = threading.RLock()  # trials of a search run in parallel

    def put(self, run_id: str, message: Message, path: Path | None = None) -> None:
        """Send a message, or store it until the server is back; the file at `path` may change afterwards."""
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
        """Try to send all stored messages; returns whether none is left."""
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
                self._say(
                    f"MLflow at {self._place} is reachable again after {away:.0f} s: stored messages have been sent"
                )
                self._since = None
            return True

    def now(self, call: Callable[[], Answer]) -> Answer:
        """Return the result of a call that cannot be deferred. Raises TrackingAway as `wait` does."""
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
                if began > until:  # the server answers pings, but this call keeps failing
                    raise self._given_up() from error
                with self._lock:
                    self._lost(error, began)
                time.sleep(POLL_SECONDS)

    def unless_rejected(self, run_id: str, call: Callable[[], Answer]) -> Answer | None:
        """Return the result of a call for a run, or None where the server rejects it, as for a deleted run."""
        try:
            return call()
        except Exception as error:
            if not self._is_refusal(error):
                raise
            self._note_refusal(run_id, error)
            return None

    def wait(self) -> None:
        """Wait until everything is sent. Raises TrackingAway where the server is not back within `wait` seconds."""
        until, said = time.monotonic() + self._wait, False
        self.patient = True  # longer timeouts, for a server that is slow
        try:
            while not self.deliver():
                if time.monotonic() >= until:
                    raise self._given_up()
                if not said:
                    self._say(f"  waiting up to {self._wait:g} s for MLflow at {self._place}")
                    said = True
                time.sleep(POLL_SECONDS)
        finally:
            self.patient = False

    def leave(self) -> None:
        """Try once to send everything, before the process ends with another error; print where the rest is stored."""
        if not self.deliver():
            self._say(
                f"what MLflow has not received is stored in {self.folder} and will be sent at the next start"
            )

    def take_over(self) -> None:
        """Send messages left by processes that have ended. Rejected messages stay on disk, and a line is printed."""
        for path in sorted(self.folder.glob(f"*/{JOURNAL}")):
            try:
                journal = Journal(path.parent)
            except Timeout:  # its process is running and will send it
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
                    self._journals[run_id] = journal  # to be sent before new messages of this run
                    self._lost(error, began)
                    continue
                journal.close()
                self._say(
                    f"MLflow at {self._place} rejected the messages stored in {path.parent}: {innermost(error)}; "
                    "delete the folder if they are not needed"
                )
            else:
                journal.remove()
                self._say(f"sent the stored messages of run {run_id} to MLflow")

    def _is_there(self) -> bool:
        try:
            self._ping()
        except Exception as error:
            return not self._is_away(error)
        return True

    def _note_refusal(self, run_id: str, error: Exception) -> None:
        if run_id not in self.refused:
            self._say(
                f"MLflow at {self._place} rejected a message of run {run_id}: {innermost(error)}; the run continues, "
                "and its tracking is incomplete"
            )
        self.refused[run_id] = self.refused.get(run_id, 0) + 1

    def _given_up(self) -> TrackingAway:
        return TrackingAway(
            f"MLflow at {self._place} was not back within {self._wait:g} s (--tracking-wait): nothing is lost, what "
            f"it has not received is kept in {self.folder} and will be sent at the next start of any stage; run the "
            "same command again to continue, finished stages are not repeated"
        )

    def _lost(self, error: Exception, began: float) -> None:
        now = time.monotonic()
        self._next = now + max(RETRY_SECONDS, RETRY_COST * (now - began))
        if self._since is None:
            self._since = began
            self._say(
                f"MLflow at {self._place} is unreachable: the run continues, and its messages are stored in "
                f"{self.folder} until the server is back ({innermost(error)})"
            )
