"""One attack per module, each a coroutine that is told its target and tells what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from tests.attack.attacks import (
    files,
    gzip_bombs,
    hoard,
    idle,
    malformed,
    metadata,
    oversize,
    pings,
    refused,
    resets,
    settings,
    slow,
)
from tests.attack.target import Target

Attack: TypeAlias = Callable[[Target], Coroutine[Any, Any, Counter[str]]]

ATTACKS: dict[str, Attack] = {
    "idle-connections": idle.attack,
    "slow-handshakes": slow.attack,
    "resets": resets.attack,
    "pings": pings.attack,
    "settings": settings.attack,
    "metadata-bombs": metadata.attack,
    "gzip-bombs": gzip_bombs.attack,
    "malformed": malformed.attack,
    "oversize": oversize.attack,
    "refused-requests": refused.attack,
    "hoarded-places": hoard.attack,
    "more-than-files": files.attack,
}
FEW_FILES = frozenset({"more-than-files"})  # attacks on a daemon that may not open many
ONCE = frozenset({"refused-requests", "more-than-files"})  # its count is what is asked for
