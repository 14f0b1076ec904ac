"""Where the keepers of this user are, and which one is ours. On the way of every call: few imports."""

from __future__ import annotations

import hashlib
import os
import stat

PROTOCOL = "1"
_PREFIXES = ("STEPCRED_", "SPIFFE_")  # what says where the broker is and who we are
_PATHS = ("STEPCRED_CERT", "STEPCRED_KEY", "STEPCRED_CA")


class Trouble(Exception):
    """No answer from any keeper; the exit code and what to say."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Asked:
    """What the command line says; None: not given. Names are resolved, unless the step is joined by its handle."""

    __slots__ = ("handle", "linger", "names", "scope", "scopes", "wait_broker")

    def __init__(
        self,
        *,
        scope: str,
        also: list[str],
        names: tuple[str, str, str],
        handle: str,
        linger: str,
        wait_broker: float | None = None,
    ) -> None:
        self.scope = scope
        self.scopes = sorted({scope, *also})
        self.names = names
        self.handle = handle
        self.linger = linger
        self.wait_broker = wait_broker


def folder() -> str:
    """Made if need be. Raises Trouble when it is not ours alone: whoever may write there could answer in our place."""
    home = os.environ.get("XDG_RUNTIME_DIR", "")
    # pathlib costs 10 ms. What lies in /tmp is 0700, and looked at.
    path = f"{home}/stepcred" if os.path.isabs(home) else f"/tmp/stepcred-{os.geteuid()}"  # noqa: PTH117, S108
    try:
        os.mkdir(path, 0o700)  # noqa: PTH102
    except FileExistsError:
        pass
    except OSError as error:
        raise Trouble(78, f"cannot make {path}: {error.strerror}; set XDG_RUNTIME_DIR to a folder of yours") from None
    about = os.lstat(path)
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077:
        raise Trouble(78, f"{path} is not a folder of yours alone (0700); remove it, or set XDG_RUNTIME_DIR")
    return path


def settings() -> dict[str, str]:
    """Of this environment, meaning the same in any folder."""
    found = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES)}
    for name in _PATHS:
        if found.get(name):
            found[name] = os.path.abspath(found[name])  # noqa: PTH100
    return found


def base(asked: Asked) -> str:
    """Path without its ending. Another broker, identity, step or set of scopes is another keeper's.

    So is another PID namespace: a keeper could not see when its users there are gone.
    """
    parts = [PROTOCOL, str(os.stat("/proc/self/ns/pid").st_ino)]  # noqa: PTH116
    parts += [f"{name}={value}" for name, value in sorted(settings().items())]
    parts += ["handle", asked.handle] if asked.handle else ["step", *asked.names, "scopes", *asked.scopes]
    digest = hashlib.sha256(b"".join(f"{len(part)}:{part}".encode(errors="surrogateescape") for part in parts))
    return f"{folder()}/{digest.hexdigest()[:24]}"
