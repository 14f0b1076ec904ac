"""Looks into the files of secrets. Who else can read or replace a file, the config has looked at already."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from broker.cli.check.looked import Looked
from broker.cli.options import read_token
from broker.config import Config, Receiver
from broker.errors import ConfigError

_BOM = b"\xef\xbb\xbf"


def secrets(settings: Config) -> Looked:
    """One line each, as it will be sent. A line end behind it is taken off; whoever fills an empty file may come later."""
    errors: list[str] = []
    notes: list[str] = []
    for option, path in _secret_files(settings).items():
        try:
            data = path.read_bytes()
        except OSError as error:  # it was there when the config was read
            errors.append(f"{option} {path}: {error.strerror}")
            continue
        if not data.strip():
            notes.append(f"{option} {path}: is empty; is something still to fill it?")
        elif data.startswith(_BOM):
            errors.append(
                f"{option} {path}: begins with a byte order mark; run sed -i '1s/^\\xEF\\xBB\\xBF//' {quote(str(path))}"
            )
        else:
            try:
                read_token(option, path)
            except ConfigError as error:
                errors += error.problems
    return Looked(errors=errors, notes=notes)


def _secret_files(settings: Config) -> dict[str, Path]:
    vault, aws = settings.vault, settings.aws
    found = {
        "vault.token_file": vault and vault.token_file,
        "vault.approle.secret_id_file": vault and vault.approle and vault.approle.secret_id_file,
        "vault.kubernetes.jwt_file": vault and vault.kubernetes and vault.kubernetes.jwt_file,
        "aws.secret_access_key_file": aws and aws.secret_access_key_file,
        "aws.web_identity.token_file": aws and aws.web_identity and aws.web_identity.token_file,
    }
    receivers: dict[str, Receiver] = {
        f"alerts.alertmanager.{name}": one for name, one in settings.alerts.alertmanager.items()
    }
    receivers |= {f"alerts.webhook.{name}": one for name, one in settings.alerts.webhook.items()}
    receivers |= {f"compensation.{name}": one for name, one in settings.compensation.items()}
    found |= {f"{name}.token_file": one.token_file for name, one in receivers.items()}
    return {option: path for option, path in found.items() if path}
