"""`scopes provision --diff` on servers that give no answer to compare with."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from broker.__main__ import main
from tests.support.processes import free_port
from tests.unit.cli.test_main import SCOPES


@contextmanager
def answering(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"errors": ["words of the server"]}'
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def diff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.delenv("BAO_ADDR", raising=False)
    monkeypatch.delenv("VAULT_ADDR", raising=False)
    (tmp_path / "scopes.yaml").write_text(SCOPES)
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("s.token")

    def run(*more: str) -> int:
        return main(["scopes", "provision", str(tmp_path / "scopes.yaml"), "--diff", "--token-file", str(token), *more])

    return run


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (403, "the token must be allowed to read policies"),
        (503, "sealed: unseal it first"),
        (502, "is this the address of a Vault"),
    ],
)
def test_each_refusal_has_its_own_hint(
    diff: Callable[..., int], capsys: pytest.CaptureFixture[str], status: int, hint: str
) -> None:
    with answering(status) as address:
        assert diff("--address", address) == os.EX_UNAVAILABLE
    said = capsys.readouterr().err
    assert hint in said
    assert said.count("the token must") == (status == 403)


def test_a_server_that_is_not_there_says_nothing_of_the_token(
    diff: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("VAULT_ADDR", address)
    assert diff() == os.EX_UNAVAILABLE
    said = capsys.readouterr().err
    assert f"is {address} its address, and is the server up?" in said
    assert "token" not in said
    monkeypatch.setenv("BAO_ADDR", "http://127.0.0.1:1")
    assert diff() == os.EX_UNAVAILABLE
    assert "is http://127.0.0.1:1 its address" in capsys.readouterr().err


def test_an_administrators_token_that_others_can_read_is_not_used(
    diff: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "token").chmod(0o644)
    assert diff("--address", "http://127.0.0.1:1") == os.EX_CONFIG
    assert f"--token-file {tmp_path / 'token'}: readable by others; run chmod 600" in capsys.readouterr().err
