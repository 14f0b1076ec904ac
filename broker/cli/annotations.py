"""Findings as GitHub's workflow commands: a line each, shown beside the line of the file that it is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from broker.policy.lint import Finding, Level

_COMMANDS = {Level.ERROR: "error", Level.WARNING: "warning", Level.NOTE: "notice"}


def github_commands(found: Iterable[Finding]) -> Iterator[str]:
    """Files must be named relative to the repository's folder."""
    for one in found:
        properties = {
            "file": one.file,
            "line": str(one.line),
            "col": str(one.column),
            "title": one.rule.id,
        }
        told = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
        yield f"::{_COMMANDS[one.rule.level]} {told}::{_data(one.message)}"


def _data(text: str) -> str:
    """As GitHub's own toolkit escapes it: else a message could give further commands."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
