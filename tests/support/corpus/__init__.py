"""Client certificates, good and bad, each bad one bent in one way and otherwise sound.

Whether the Authenticator or the TLS layer refuses it is part of each entry. A new bend is one line in one of the
tables; whoever makes the broker's surroundings (trust bundle, lists) takes them from `Pki` after all are made.
"""

from tests.support.corpus.case import Bad, Make, Pki, Shown
from tests.support.corpus.chains import CHAINS
from tests.support.corpus.encodings import ENCODINGS
from tests.support.corpus.good import GOOD
from tests.support.corpus.leaves import LEAVES
from tests.support.corpus.names import NAMES

BAD: dict[str, Bad] = {**NAMES, **LEAVES, **CHAINS, **ENCODINGS}
assert len(BAD) == len(NAMES) + len(LEAVES) + len(CHAINS) + len(ENCODINGS), "two entries of one name"

__all__ = ["BAD", "GOOD", "Bad", "Make", "Pki", "Shown"]
