"""A loopback server that speaks the Hub's download protocol: HEAD and GET of /OWNER/NAME/resolve/REVISION/FILE."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REQUEST = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


class HubServer:
    """`repos`: name -> revision -> (commit, file name -> bytes). Commits are asked for by their own name too."""

    def __init__(self, repos: dict[str, dict[str, tuple[str, dict[str, bytes]]]]) -> None:
        self.requests: list[tuple[str, str]] = []
        log = self.requests

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                log.append((self.command, self.path))
                match = REQUEST.fullmatch(self.path)
                if match is None:
                    return self.refuse(404, "NotFound")
                if match["repo"] == "someone/gated":
                    return self.refuse(403, "GatedRepo")
                if match["repo"] not in repos:
                    return self.refuse(401, "RepoNotFound")
                revisions = repos[match["repo"]]
                by_commit = {commit: (commit, files) for commit, files in revisions.values()}
                found = revisions.get(match["revision"]) or by_commit.get(match["revision"])
                if found is None:
                    return self.refuse(404, "RevisionNotFound")
                commit, files = found
                if match["file"] not in files:
                    return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
                content = files[match["file"]]
                self.send_response(200)
                self.send_header("X-Repo-Commit", commit)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Accept-Ranges", "bytes")
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
                text = json.dumps({"error": code}).encode()
                self.send_response(status)
                for name, value in ({"X-Error-Code": code} | (headers or {})).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
