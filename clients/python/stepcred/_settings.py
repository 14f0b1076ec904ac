"""Where the broker is and who we are, from arguments and STEPCRED_* variables. Every problem at once."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stepcred._errors import SettingsError

_MEANING = {
    "addr": "the broker's address, host:port",
    "cert": "file with this agent's certificate, PEM",
    "key": "file with its private key, PEM",
    "ca": "file with the CA certificates that vouch for the broker, PEM",
}
HANDLE = "STEPCRED_STEP_HANDLE"  # of a step that a launcher has opened
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Read and checked; PEM bytes, not paths, so that what was checked is what is used."""

    addr: str
    cert: bytes
    key: bytes = field(repr=False)
    ca: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class StepName:
    """The workflow's own names for what is running."""

    workflow: str
    run: str
    step: str


def read(
    *, addr: str | None, cert: str | None, key: str | None, ca: str | None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Arguments before variables. Raises SettingsError naming everything that is missing or unusable."""
    given = {"addr": addr, "cert": cert, "key": key, "ca": ca}
    found = {name: str(value or environ.get(f"STEPCRED_{name.upper()}", "")) for name, value in given.items()}
    missing = [name for name, value in found.items() if not value]
    problems = [f"STEPCRED_{name.upper()} is not set: {_MEANING[name]}" for name in missing]
    if found["addr"] and not _ADDRESS.fullmatch(found["addr"]):
        problems.append(f"STEPCRED_ADDR must be host:port, not {found['addr']!r}")
    files = {}
    for name in ("cert", "key", "ca"):
        if found[name]:
            try:
                files[name] = Path(found[name]).read_bytes()
            except OSError as error:
                problems.append(f"STEPCRED_{name.upper()}: cannot read {found[name]}: {error.strerror}")
    if len(files) == len(given) - 1:
        problems += _check_pems(found)
    if problems:
        raise SettingsError(problems)
    return Settings(addr=found["addr"], **files)


def _check_pems(paths: Mapping[str, str]) -> list[str]:
    """GRPC would report a broken file as an unreachable broker, so it is tried here first."""
    problems = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # An empty password: an encrypted key must fail here, not ask on the terminal.
        context.load_cert_chain(paths["cert"], paths["key"], password=lambda: "")
    except (OSError, ValueError):  # SSLError is an OSError
        problems.append(
            f"STEPCRED_CERT and STEPCRED_KEY: {paths['cert']} and {paths['key']} "
            "are not a PEM certificate and its unencrypted private key"
        )
    try:
        context.load_verify_locations(paths["ca"])
    except (OSError, ValueError):
        problems.append(f"STEPCRED_CA: {paths['ca']} holds no PEM certificate")
    return problems


def step_name(
    *, workflow: str | None, run: str | None, step: str | None, environ: Mapping[str, str] = os.environ
) -> StepName:
    """Arguments before STEPCRED_WORKFLOW, STEPCRED_RUN, STEPCRED_STEP."""
    given = {"workflow": workflow, "run": run, "step": step}
    found = {name: value or environ.get(f"STEPCRED_{name.upper()}", "") for name, value in given.items()}
    missing = [name for name, value in found.items() if not value]
    if missing:
        raise SettingsError([f"{name} is not given: pass {name}= or set STEPCRED_{name.upper()}" for name in missing])
    return StepName(**found)


def step_handle(handle: str | None, *, environ: Mapping[str, str] = os.environ) -> str:
    """The argument before STEPCRED_STEP_HANDLE."""
    found = handle or environ.get(HANDLE, "")
    if not found:
        raise SettingsError([f"no handle is given: pass handle= or set {HANDLE}"])
    return found
