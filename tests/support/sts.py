"""An STS that answers as it is told, and counts: for what a real one does not do on demand."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias
from urllib.parse import parse_qs

Answer: TypeAlias = tuple[int, str] | None  # (status, body); None: the request is read, and the connection closed


class ToldSts:
    """`requests` holds the form of each; `answer` may be changed; nothing is answered before `go`."""

    def __init__(self, answer: Answer, *, held: bool) -> None:
        self.answer = answer
        self.requests: list[dict[str, str]] = []
        self.go = threading.Event()
        if not held:
            self.go.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                outer.requests.append({name: values[0] for name, values in parse_qs(body).items()})
                outer.go.wait(20)
                if outer.answer is None:
                    self.close_connection = True
                    return
                status, text = outer.answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 - http.server's name

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextlib.contextmanager
def told_sts(answer: Answer, *, held: bool = False) -> Iterator[ToldSts]:
    """On a free loopback port. `held`: until `go` is set it answers nobody."""
    sts = ToldSts(answer, held=held)
    thread = threading.Thread(target=sts.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield sts
    finally:
        sts.go.set()
        sts.server.shutdown()
        sts.server.server_close()
        thread.join(5)


def error(code: str, words: str = "") -> str:
    """A refusal as STS writes it; its words must reach nobody."""
    return f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{words}</Message></Error></ErrorResponse>"
