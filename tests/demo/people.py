"""Two operators: certificates under a root of their own, a file that says what each may do, second factors."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import pyotp

from tests.demo.commands import Ran, run
from tests.demo.site import TRUST_DOMAIN, Site

ENTRIES = {  # ann's group owns `repair` in the scope map, bob's nothing
    "ann": "roles: [responder, approver], groups: [data-platform]",
    "bob": "roles: [responder, approver], groups: [security]",
}
_STEP = 30  # seconds that a code is shown (RFC 6238)


@dataclass(kw_only=True)
class Operator:
    """One person, with certificate and authenticator app."""

    name: str
    uri: str  # otpauth://…, what the app has scanned
    _used: int = 0

    @property
    def secret(self) -> str:
        return str(pyotp.parse_uri(self.uri).secret)

    def code(self) -> str:
        """The next that was not used: each counts once, and a broker takes those of one step to either side.

        So two at once are that of now, and the one that a phone shows whose clock is half a minute ahead.
        """
        self._used = max(self._used + 1, int(time.time()) // _STEP)
        return pyotp.TOTP(self.secret).at(self._used * _STEP)


def make_operators(site: Site) -> tuple[list[Operator], list[Ran]]:
    """Through the real commands: certificate, sealing key, second factor of each, and the operators file."""
    ran = [run("stepcred-broker", "operators", "key", site.second_factor_key)]
    found, lines = [], ["version: 1", "operators:"]
    for name, entry in ENTRIES.items():
        spiffe_id = f"spiffe://{TRUST_DOMAIN}/operator/{name}"
        ran.append(_certificate(site, name, spiffe_id))
        sealed = run("stepcred-broker", "operators", "seal", name, "--key", site.second_factor_key, "--show", "--json")
        ran.append(sealed)
        if sealed.code:
            break
        made: Mapping[str, object] = json.loads("\n".join(sealed.lines))
        operator = Operator(name=name, uri=str(made["uri"]))
        _private(site.folder / f"{name}.otpauth", operator.uri)
        found.append(operator)
        lines.append(f'  {name}: {{ids: ["{spiffe_id}"], {entry}, second_factor: {json.dumps(made["second_factor"])}}}')
    site.operators_file.write_text("\n".join(lines) + "\n")
    return found, ran


def _certificate(site: Site, name: str, spiffe_id: str) -> Ran:
    argv: list[str | Path] = [
        "dev-ca",
        "issue",
        "--dir",
        site.ca,
        "--operator",
        "--id",
        spiffe_id,
        "--out",
        site.ca / name,
    ]
    return run("stepcred-broker", *argv)


def _private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text + "\n")


def admin(site: Site, operator: Operator, *arguments: str, code: bool = False) -> Ran:
    """`stepcred admin …` as that operator; `code`: it will be asked for one."""
    env = site.admin_environment(operator.name)
    if code:
        file = site.folder / f"{operator.name}.code"
        _private(file, operator.code())
        env["STEPCRED_ADMIN_CODE_FILE"] = str(file)
    return run("stepcred", "admin", *arguments, env=env)


def shown(*arguments: str) -> str:
    """The command as somebody types it."""
    return " ".join(["stepcred", "admin", *map(quote, arguments)])
