"""The live page over HTTP: loopback only, GET only, and only for whoever has the address with its secret.

Run folders are their owner's alone, and every user of a machine reaches its loopback: so the address holds a secret,
made anew at each start. A page of another site that had this machine's name resolve to loopback would not have it
either; such names are refused besides.
"""

from __future__ import annotations

import secrets
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from gps_ray.base.errors import DataError, ResourceError
from gps_ray.study.watch.page import Query, WatchPage

__all__ = ["WatchServer"]

_LOOPBACK = "127.0.0.1"
_NAMES = (_LOOPBACK, "localhost")


class _Handler(BaseHTTPRequestHandler):
    server: WatchServer
    timeout = 10.0
    server_version, sys_version = "gps-ray", ""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = dict(parse_qsl(address.query)) if len(address.query) < 4096 else {}
        try:
            if self.headers.get("Host", "").rpartition(":")[0] not in _NAMES:
                self._answer(403, "text/plain", f"this page answers to {' and '.join(_NAMES)} alone\n")
            elif address.path == self.server.path:
                self._answer(200, "text/html", self.server.page.html(Query.of(query)))
            elif address.path == self.server.path + "parts":
                parts = self.server.page.parts(Query.of(query), query.get("have", ""))
                self._answer(200, "application/json", parts)
            else:
                self._answer(404, "text/plain", "there is nothing here; use the address that jobs.watch printed\n")
        except DataError as error:  # the folder was moved away meanwhile
            self._answer(503, "text/plain", f"{error}\n")

    def _refuse(self) -> None:
        self._answer(405, "text/plain", "this page only reads\n")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse

    def _answer(self, code: int, kind: str, text: str) -> None:
        body = text.encode(errors="replace")
        self.send_response(code)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": self.server.page.policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is the reader's."""


class WatchServer(ThreadingHTTPServer):
    """Serves the page of a run folder until it is shut down. ``port`` 0 takes a free one.

    Raises DataError where the folder is no run's, ResourceError where the port is taken.
    """

    daemon_threads = True

    def __init__(self, root: Path, port: int, every_s: float) -> None:
        self.page = WatchPage(root, every_s)
        self.path = f"/{secrets.token_urlsafe(12)}/"
        try:
            super().__init__((_LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ResourceError(
                f"--port: expected a free port on {_LOOPBACK}, got {port} ({error}); give another, 0 takes any"
            ) from error

    def handle_error(self, request: object, client_address: object) -> None:
        """A reader that went away while it was answered is none."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def address(self) -> str:
        return f"http://{_LOOPBACK}:{self.server_address[1]}{self.path}"
