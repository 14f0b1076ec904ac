"""Looks at the files themselves. The config has refused already what others can read, and what everybody can write."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from broker.cli.check.looked import Looked
from broker.cli.options import read_token
from broker.config import Config
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
    }
    return {option: path for option, path in found.items() if path}


def permissions(settings: Config) -> Looked:
    """Who may write a folder can put another file in the place of ours, whatever the file's own mode."""
    files = [
        settings.tls.cert_file,
        settings.tls.key_file,
        settings.tls.client_ca_file,
        *settings.tls.crl_files,
        *filter(None, [settings.tls.deny_file]),
        *(file for one in settings.federation.values() for file in (one.client_ca_file, *one.crl_files)),
        *((settings.operators.client_ca_file, *settings.operators.crl_files) if settings.operators else ()),
        settings.store.path,
        settings.store.mint_key_file,
        settings.store.anchor,
        settings.scopes.file,
        *settings.scopes.keys.values(),
        *_secret_files(settings).values(),
    ]
    folders = dict.fromkeys(folder for file in files for folder in (*file.parents, *file.resolve().parents))
    return Looked(errors=[*_open_folders(folders)], notes=[*_foreign(files)])


def _open_folders(folders: dict[Path, None]) -> Iterator[str]:
    for folder in folders:
        try:
            mode = folder.stat().st_mode
        except OSError:
            continue  # the look at the file says so
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:  # in a sticky one, nobody replaces what is ours
            yield f"folder {folder}: everybody can replace what lies in it; run chmod o-w {quote(str(folder))}"


def _foreign(files: list[Path]) -> Iterator[str]:
    for file in dict.fromkeys(files):
        try:
            owner = file.stat().st_uid
        except OSError:
            continue
        if owner not in (0, os.geteuid()):
            yield f"{file} belongs to user {owner}, not to the broker's own ({os.geteuid()}) or root: that user can change it"
