"""What one sidecar was asked to do, read and checked."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepcred._credentials import AwsSession
from stepcred._outlets import PrivateFile
from stepcred.cli._sidecar._held import Wanted
from stepcred.cli._sidecar._places import Address, FileOf, Template


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """`listen` is None when nothing is served but files."""

    wanted: Wanted
    aws: Sequence[str] = ()
    listen: Address | None = None
    token_file: Path | None = None
    env_file: Path | None = None
    files: Sequence[FileOf] = ()
    templates: Sequence[Template] = ()
    ready_listen: Address | None = None
    watch: int | None = None
    allow_disk: bool = False
    file_mode: int = 0o600
    group: int | None = None

    def private(self, path: Path) -> PrivateFile:
        """A file with a secret."""
        return PrivateFile(path, allow_disk=self.allow_disk, mode=self.file_mode, group=self.group)

    def public(self, path: Path) -> PrivateFile:
        """One without, which may lie on a disk."""
        return PrivateFile(path, allow_disk=True, mode=self.file_mode, group=self.group)


def environment_file(session: AwsSession, *, uri: str, token_file: Path) -> bytes:
    """For a shell's `.`: the way to the endpoint, and nothing beside it that SDKs would take instead."""
    variables = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": uri,
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token_file.absolute()),
        "AWS_REGION": session.region,
        "AWS_DEFAULT_REGION": session.region,
        "AWS_ENDPOINT_URL": session.endpoint_url,
    }
    rivals = sorted(session.CONFLICTS - variables.keys())
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items() if value]
    return "\n".join([f"unset {' '.join(rivals)}", *lines, ""]).encode()
