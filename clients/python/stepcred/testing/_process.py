"""`stepcred-broker dev` as a process of its own, which ends with ours, however ours ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any, Self

_START = 60.0  # seconds; a second on an idle machine
_STOP = 10.0
_ORDER = 30.0
_SETTINGS = "STEPCRED_BROKER_"  # of a real daemon: none of this one's business
_SHOWN = 2000  # characters of what it said
_MISSING = ("ModuleNotFoundError", "ImportError")
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class DevBrokerFailed(Exception):
    """It did not start, or is no more."""


class OrderRefused(Exception):
    """An order that cannot be carried out: an unknown scope, a reason that there is not, a scope map with mistakes."""


class Process:
    """Used as a context, or ended by `stop`."""

    def __init__(self, scopes: Path) -> None:
        """Raises DevBrokerFailed."""
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        environ = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
        argv = [sys.executable, "-m", "broker", "dev", "--scopes", str(scopes), "--control", "--json"]
        self._process = subprocess.Popen(  # noqa: S603 - our own module, by this interpreter
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=environ
        )
        try:
            self.told: dict[str, Any] = self._begun()
            self._token = Path(self.told["control_token_file"]).read_text()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Has not ended."""
        return self._process.poll() is None

    def order(self, order: str, **asked: Any) -> dict[str, Any]:
        """Have it do something. Raises OrderRefused, DevBrokerFailed."""
        request = urllib.request.Request(  # noqa: S310 - http on loopback, as it told us itself
            self.told["control"] + order,
            data=json.dumps(asked).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with _NO_PROXY.open(request, timeout=_ORDER) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            raise OrderRefused(json.load(error)["error"]) from None
        except OSError as error:
            raise DevBrokerFailed(f"the dev broker gives no answer ({error}){self._last_words()}") from None

    def stop(self) -> None:
        """Its standard input closes, and it goes; what does not go is killed."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        try:
            process.wait(_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._said.close()

    def _begun(self) -> dict[str, Any]:
        """The one line that it says when it serves."""
        assert self._process.stdout is not None  # noqa: S101 - asked for
        late = threading.Timer(_START, self._process.kill)
        late.start()
        try:
            line = self._process.stdout.readline()
        finally:
            late.cancel()
        told: dict[str, Any] = json.loads(line) if line.startswith(b"{") else {}
        if "control" in told:
            return told
        self._process.wait(_STOP)
        said = self._last_words()
        if any(name in said for name in _MISSING):
            said += '\nIts dependencies are missing: pip install "stepcred[testing]"'
        raise DevBrokerFailed(f"stepcred-broker dev did not start (exit code {self._process.returncode}){said}")

    def _last_words(self) -> str:
        self._said.seek(0)
        text = self._said.read().decode(errors="replace").strip()
        return f":\n{text[-_SHOWN:]}" if text else ""
