"""Client certificates, good and bad, each bad one bent in one way and otherwise sound.

Whether the Authenticator or the TLS layer refuses it is part of each entry. A new bend is one line in one of the
tables; what an entry needs of the broker's surroundings (lists, other roots) it leaves
in the `Pki`, from which `furnish` makes them once all are made.
"""

from tests.support.corpus.case import Bad, Make, Pki, Shown
from tests.support.corpus.chains import CHAINS
from tests.support.corpus.encodings import ENCODINGS
from tests.support.corpus.good import ISSUED
from tests.support.corpus.house import House, furnish
from tests.support.corpus.leaves import LEAVES
from tests.support.corpus.lists import ADMITTED, LISTS
from tests.support.corpus.names import NAMES

BAD: dict[str, Bad] = {**NAMES, **LEAVES, **CHAINS, **ENCODINGS, **LISTS}
GOOD: dict[str, Make] = {**ISSUED, **ADMITTED}

__all__ = ["BAD", "GOOD", "Bad", "House", "Make", "Pki", "Shown", "furnish", "made"]


def made(pki: Pki) -> dict[str, Shown]:
    """All of them, before the house is furnished."""
    return {name: make(pki) for name, make in {**{name: bad.make for name, bad in BAD.items()}, **GOOD}.items()}
