"""`stepcred doctor`: look at everything between a step and the broker, in order, and say what to do about each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stepcred.cli import _exits
from stepcred.cli._doctor import _broker, _certificate, _environment, _files, _reach, _values
from stepcred.cli._doctor._finding import Case, Finding, Level, skipped


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One thing to look at. `ready` says whether what it needs is there; `code`: exit code when it finds a problem."""

    name: str
    run: Callable[[Case], Iterator[Finding]]
    ready: Callable[[Case], bool] = lambda _: True
    code: int = _exits.FOUND_SOMETHING


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What one look found."""

    name: str
    code: int
    findings: tuple[Finding, ...]


def _can_ask(case: Case) -> bool:
    return not case.grpc_aborts and (case.tls_done or (case.workload_api and bool(case.connected)))


LOOKS = (
    Look(name="settings", run=_values.look, code=_exits.CONFIG),
    Look(name="files", run=_files.look, ready=lambda case: bool(case.paths), code=_exits.CONFIG),
    Look(name="certificate", run=_certificate.look, ready=lambda case: {"cert", "ca"} <= case.contents.keys()),
    Look(name="environment", run=_environment.look),
    Look(name="name", run=_reach.name, ready=lambda case: bool(case.addr), code=_exits.UNAVAILABLE),
    Look(name="tcp", run=_reach.tcp, ready=lambda case: bool(case.addresses), code=_exits.UNAVAILABLE),
    Look(name="tls", run=_reach.tls, ready=lambda case: bool(case.connected) and case.usable),
    Look(name="broker", run=_broker.look, ready=_can_ask),
)


def examine(environ: Mapping[str, str], *, handle_file: Path | None = None) -> list[Looked]:
    """Every look, also after one that found a problem, as far as it can be."""
    case = Case(environ=environ, now=datetime.now(UTC), handle_file=handle_file)
    return [_do(look, case) for look in LOOKS]


def _do(look: Look, case: Case) -> Looked:
    if look.ready(case):
        findings = tuple(look.run(case))
    elif case.workload_api and look.name in ("files", "certificate", "tls"):
        findings = (skipped("not looked at: the identity comes from the Workload API, and the broker judges it"),)
    else:
        findings = (skipped("not looked at: something above must be mended first"),)
    return Looked(name=look.name, code=look.code, findings=findings)


def exit_code(looked: list[Looked]) -> int:
    """Of the first look that found a problem; 0 without one. Warnings change nothing."""
    return next((one.code for one in looked if any(f.level is Level.PROBLEM for f in one.findings)), 0)
