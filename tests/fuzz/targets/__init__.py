"""One module for each thing that is fuzzed. Each has a `TARGET`, and is imported only in the process that needs it."""

from __future__ import annotations

from importlib import import_module

from tests.fuzz.target import Target

NAMES = (
    "requests",
    "calls",
    "answers",
    "names",
    "spiffe_id",
    "certificate",
    "deny_list",
    "crl",
    "address",
    "scope_map",
    "scope_files",
    "envelope",
    "vault_answer",
    "http_answer",
    "config",
    "state_files",
    "journal",
)


def load(name: str) -> Target:
    """The target of this name; importing it imports the broker, which atheris wants to see."""
    target: Target = import_module(f"{__name__}.{name}").TARGET
    return target
