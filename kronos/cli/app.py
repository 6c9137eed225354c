"""The command `app`: a page of one's own on this machine."""

import importlib.util
from collections.abc import Sequence

from kronos.cli.arguments import Parser
from kronos.config.schema import FIELDS
from kronos.utils.errors import UserError

NEEDED = ("dash", "waitress")
PORT = 8050


def app_command(arguments: Sequence[str]) -> int:
    """`python -m kronos app [--host ADDRESS] [--port NUMBER] [--tracking-uri URI] [--experiment-name NAME]`."""
    parser = Parser(
        prog="python -m kronos app",
        description="A page for this machine: check bars, see candles, forecast, compare backtests, fine-tune. An "
        "address other than loopback needs a password in the environment variable KRONOS_APP_PASSWORD (user name "
        "kronos); it travels unencrypted, so put a proxy with TLS before it or come through ssh -L.",
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default %(default)s")
    parser.add_argument(
        "--port", default=PORT, type=int, metavar="NUMBER", help="0 takes a free one (default %(default)s)"
    )
    parser.add_argument("--tracking-uri", help="MLflow tracking address (default: MLflow's own rule)")
    parser.add_argument(
        "--experiment-name",
        default=FIELDS["experiment_name"].default,
        help="MLflow experiment (default %(default)s)",
    )
    given = parser.parse_args(list(arguments))
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"the page needs packages that are not installed ({', '.join(missing)}): "
            "pip install 'kronos-pipeline[app]'"
        )
    if not 0 <= given.port <= 65535:
        raise UserError(f"--port: {given.port} is no port, expected 0 to 65535")
    from kronos.app.server import serve

    serve(given.host, given.port, given.tracking_uri, given.experiment_name)
    return 0
