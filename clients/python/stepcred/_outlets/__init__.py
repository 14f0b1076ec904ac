"""Where credentials go: formats, templates, private files and environments. The standard library alone."""

from stepcred._outlets._environment import left_out, merged_environment, rivals, without_rivals
from stepcred._outlets._errors import Unsafe, Unusable
from stepcred._outlets._files import PrivateFile, PrivateFolder
from stepcred._outlets._formats import dsn, render, secrets_of, usual
from stepcred._outlets._templates import fill, scopes_of
from stepcred._outlets._templates import read as read_template

__all__ = [
    "PrivateFile",
    "PrivateFolder",
    "Unsafe",
    "Unusable",
    "dsn",
    "fill",
    "left_out",
    "merged_environment",
    "read_template",
    "render",
    "rivals",
    "scopes_of",
    "secrets_of",
    "usual",
    "without_rivals",
]
