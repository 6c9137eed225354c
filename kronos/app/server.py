"""Serve the page until it is interrupted."""

import errno
import logging
import threading

from waitress import create_server

from kronos.app.guard import password_for
from kronos.app.page import MOST_BODY, make_page
from kronos.app.session import Session
from kronos.utils.errors import UserError

THREADS = 8


def serve(host: str, port: int, uri: str | None, experiment: str) -> None:
    """Serve the page at an address until an interrupt, then stop its trainings and remove its temporary folder.

    Raises UserError for another address than loopback without a password, and for an address that cannot be taken.
    """
    password = password_for(host)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a busy moment is no news
    session = Session(uri, experiment)
    try:
        app = make_page(session, host, password)
        try:
            server = create_server(
                app.server, host=host, port=port, threads=THREADS, max_request_body_size=MOST_BODY, ident=None
            )
        except OSError as error:
            what = (
                "is taken by another program"
                if error.errno == errno.EADDRINUSE
                else f"cannot be used ({error})"
            )
            raise UserError(f"{host}, port {port}, {what}: give another --port or --host") from None
        shown = f"[{host}]" if ":" in host else host
        print(f"app: http://{shown}:{server.effective_port}  (Ctrl-C ends it)", flush=True)
        # In a thread: waitress would take an interrupt for itself, which must come to `finally` here.
        answering = threading.Thread(target=server.run, daemon=True)
        answering.start()
        while answering.is_alive():
            answering.join(1.0)
    finally:
        if session.trainings.running():
            print("app: its training saves its state, and can be gone on with", flush=True)
        session.close()
