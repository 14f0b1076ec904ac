"""A program that prints the broker's AWS credentials, in the format of the SDKs' `credential_process`.

Ours, because botocore's has no timeout, hands on the whole environment, and raises the program's stderr (read).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeGuard

from broker.providers.aws.login.identity import Keys, NoKeys
from broker.secret import Secret

MOST_OUTPUT = 1 << 16  # bytes; AWS's own session tokens are below 4 KiB
# Where its files are, how it gets out, and whom it believes. No AWS_*, no STEPCRED_*: what it is told stands in its
# arguments, and what the daemon was told is not for it.
_HANDED_ON = (
    *("HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"),
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def fetch(argv: Sequence[str], seconds: float) -> Keys:
    """Run it once, without a shell, for at most `seconds`. Raises NoKeys."""
    return _parsed(_output(argv, seconds))


def _output(argv: Sequence[str], seconds: float) -> bytes:
    try:
        process = subprocess.Popen(  # noqa: S603 - the operator's, whom nobody else can replace
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it may print what it holds, and nobody here needs to know
            env=environment(os.environ),
            cwd="/",
            start_new_session=True,  # so that it ends with all that it started
        )
    except (OSError, ValueError):
        raise NoKeys("credential_process cannot be started: look at its path and its mode") from None
    deadline = time.monotonic() + seconds  # of a real process: no test's clock moves it
    with process:
        try:
            output = _read(process, deadline)
            status = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise NoKeys(f"credential_process took longer than {seconds:g} s, and was killed") from None
        finally:
            _kill(process)
    if status:
        raise NoKeys("credential_process failed: run it by hand to see why")
    return output


def _read(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """All that it prints. Raises TimeoutExpired, and NoKeys for more than anybody needs."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    pipe, output = process.stdout.fileno(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            piece = os.read(pipe, MOST_OUTPUT)
            if not piece:
                return bytes(output)
            output += piece
            if len(output) > MOST_OUTPUT:
                raise NoKeys("credential_process prints too much: it must print one JSON object")
    raise subprocess.TimeoutExpired(process.args, 0)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With its children, unless it has ended by itself: then its group's number may be another's by now."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What it gets of our variables."""
    handed_on = {name: ours[name] for name in _HANDED_ON if name in ours}
    return {"PATH": _PATH, "LANG": "C.UTF-8", **handed_on}


def _parsed(output: bytes) -> Keys:
    try:
        told = json.loads(output)
    except (ValueError, RecursionError):
        raise NoKeys("credential_process does not print JSON") from None
    if not isinstance(told, dict) or told.get("Version") != 1:
        raise NoKeys('credential_process must print one JSON object with "Version": 1')
    key_id, key, token = (told.get(name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken"))
    if not _is_key(key_id) or not _is_key(key) or not (token is None or _is_key(token)):
        raise NoKeys("credential_process prints no AccessKeyId and SecretAccessKey, or a SessionToken that is no text")
    return Keys(
        access_key_id=key_id,
        secret_access_key=Secret(key),
        session_token=None if token is None else Secret(token),
        ends_at=_time(told.get("Expiration")),
    )


def _is_key(value: object) -> TypeGuard[str]:
    """Fit for a header."""
    return isinstance(value, str) and value != "" and value.isascii() and value.isprintable() and " " not in value


def _time(text: object) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise NoKeys("credential_process prints an Expiration that is no time with a zone (2026-11-28T12:00:00Z)")
    return at
