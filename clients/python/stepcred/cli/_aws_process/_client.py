"""One call: ask the keeper, start it if it is not there, print what it says."""

from __future__ import annotations

import os
import socket
import sys
import time

from stepcred.cli._aws_process import _place
from stepcred.cli._aws_process._place import Asked, Trouble

USAGE, UNAVAILABLE, CONFIG = 64, 69, 78
ANSWER_WITHIN = 60.0  # seconds; opening the step and minting take 15 each at most, unless a broker is waited for
TRIES = 5  # a keeper may end at the very moment that we ask it
_INITS = (b"systemd\n", b"init\n")  # adopt orphans, and never exit
_US = b"aws-credential-process"


def fast(arguments: list[str]) -> int | None:
    """The exit code; None when these arguments, or a name that is not given, are for the long way (`_command`)."""
    asked = _plain(arguments)
    return None if asked is None else run(asked)


def run(asked: Asked) -> int:
    """The exit code."""
    try:
        code, text = _answer(asked)
    except Trouble as trouble:
        code, text = trouble.code, f"stepcred: {trouble}\n"
    stream = sys.stderr if code else sys.stdout
    if stream is None:
        return code
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        sys.stdout = None
        return code or 74
    return code


def _plain(arguments: list[str]) -> Asked | None:
    """SCOPE and nothing but options with one value each."""
    scopes: list[str] = []
    given: dict[str, list[str]] = {"--" + name: [] for name in ("also", "workflow", "run", "step", "linger")}
    left = iter(arguments)
    for one in left:
        name, equals, value = one.partition("=")
        if name in given:
            given[name].append(value if equals else next(left, ""))
        elif one.startswith("-"):
            return None
        else:
            scopes.append(one)
    if len(scopes) != 1 or any(not value for values in given.values() for value in values):
        return None
    handle = os.environ.get("STEPCRED_STEP_HANDLE", "")
    workflow, run_, step = (
        (given[f"--{name}"] or [os.environ.get(f"STEPCRED_{name.upper()}", "")])[-1]
        for name in ("workflow", "run", "step")
    )
    if handle and any(given[f"--{name}"] for name in ("workflow", "run", "step")):
        return None
    if not handle and not (workflow and run_ and step):
        return None  # a scheduler's own variables may have them
    patience = _patience(os.environ.get("STEPCRED_WAIT_BROKER", ""))
    if patience is None:
        return None
    return Asked(
        scope=scopes[0],
        also=given["--also"],
        names=("", "", "") if handle else (workflow, run_, step),
        handle=handle,
        linger=(given["--linger"] or [""])[-1],
        wait_broker=patience,
    )


def _patience(text: str) -> float | None:
    """Seconds; None for what is none, which the long way says."""
    number, unit = text[:-1], text[-1:]
    if text and not (number.isascii() and number.isdecimal() and len(number) < 5 and unit in ("s", "m")):  # noqa: PLR2004
        return None
    return float(number) * (60 if unit == "m" else 1) if text else 0.0


def _answer(asked: Asked) -> tuple[int, str]:
    """Raises Trouble."""
    if broken := next((name for name in (*asked.scopes, *asked.names) if not name.isprintable()), None):
        raise Trouble(USAGE, f"{broken!a} is no name of a scope, workflow, run or step")
    base = _place.base(asked)
    question = "\n".join((asked.scope, *_user(), asked.linger, "")).encode()
    for _ in range(TRIES):
        keeper = connect(base)
        if keeper is None:
            from stepcred.cli._aws_process import _start

            keeper = _start.start(asked, base)
        said = _said(keeper, question, within=ANSWER_WITHIN + (asked.wait_broker or 0.0))
        if said:
            code, _, text = said.decode().partition("\n")
            return int(code), text
    raise Trouble(UNAVAILABLE, f"the keeper of the credentials does not stay up; see {base}.log")


def connect(base: str) -> socket.socket | None:
    """To the keeper; None when there is none. Raises Trouble."""
    for _ in range(int(ANSWER_WITHIN / 0.05)):
        keeper = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            keeper.settimeout(ANSWER_WITHIN)
            keeper.connect(f"{base}.sock")
        except BlockingIOError:  # its queue is full
            keeper.close()
            time.sleep(0.05)
        except (FileNotFoundError, ConnectionRefusedError):
            keeper.close()
            return None
        except OSError as error:
            keeper.close()
            raise Trouble(CONFIG, f"{base}.sock: {error}; set XDG_RUNTIME_DIR to a shorter path of yours") from None
        else:
            return keeper
    raise Trouble(UNAVAILABLE, f"the keeper of the credentials takes no more calls; see {base}.log")


def _said(keeper: socket.socket, question: bytes, *, within: float) -> bytes:
    """Empty when it ended instead. `within`: seconds. Raises Trouble."""
    parts = []
    with keeper:
        try:
            keeper.settimeout(within)
            keeper.sendall(question)
            while part := keeper.recv(65536):
                parts.append(part)
        except TimeoutError:
            raise Trouble(UNAVAILABLE, f"no answer within {within:g} s") from None
        except ConnectionError:
            return b""
    said = b"".join(parts)
    return said if said.endswith(b"\n") else b""  # or half of it


def _user() -> tuple[str, str]:
    """The process that wants the credentials, with its start time: as long as it lives, so does the step.

    That is our parent, or, where a shell or another wrapper stands between, the parent of that.
    """
    pid = os.getppid()
    for _ in range(8):
        if _US not in _read(pid, "cmdline"):
            break
        pid = int(_stat(pid)[1])
    if pid <= 0 or _read(pid, "comm") in _INITS:
        return "0", "0"
    about = _stat(pid)
    return str(pid), about[19].decode()


def _stat(pid: int) -> list[bytes]:
    """From the state on; a process that is gone has zeros."""
    about = _read(pid, "stat").rpartition(b")")[2].split()
    return about if len(about) > 19 else [b"0"] * 20  # noqa: PLR2004 (the start time's place)


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: PTH123 (pathlib costs 10 ms)
            return file.read()
    except OSError:
        return b""
