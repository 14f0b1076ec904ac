"""The journal's head in a file elsewhere: what tells a database that was put back in time.

A hash chain cannot show that its end is missing. A database restored from a backup has forgotten credentials that
are alive, and charges of the guard that are spent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from broker import process
from broker.errors import ConfigError, unreadable
from broker.journal.chain import Head


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor:
    """A head that the database of this installation once had."""

    installation: str
    head: Head


def read(path: Path) -> Anchor | None:
    """None when there is no file. Raises ConfigError when it is unreadable or none of ours."""
    try:
        held = json.loads(path.read_text())
        head = Head(chain=int(held["chain"]), seq=int(held["seq"]), hash=bytes.fromhex(held["hash"]))
        return Anchor(installation=str(held["installation"]), head=head)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError([f"anchor_file {path}: {unreadable(error)}"]) from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):  # Infinity; a thousand brackets
        raise ConfigError([f"anchor_file {path}: is no anchor; restore it, or see docs/recovery.md"]) from None


def write(path: Path, anchor: Anchor) -> None:
    """Replace the file at once and durably; a new one is readable by its owner only. Raises OSError."""
    head = anchor.head
    held = {"installation": anchor.installation, "chain": head.chain, "seq": head.seq, "hash": head.hash.hex()}
    process.replace_file(path, json.dumps(held) + "\n")
