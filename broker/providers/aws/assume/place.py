"""Where AssumeRole goes, as botocore resolved it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from broker.providers.http import Origin


@dataclass(frozen=True, kw_only=True, slots=True)
class StsPlace:
    """An endpoint of STS.

    Attributes:
        plain: it is reached directly and with Signature Version 4; else only the SDK knows the way.
        region: that signatures are for.
        user_agent: as the SDK says it: AWS's records show it.
        context: of TLS; None over plain http.
    """

    origin: Origin
    plain: bool
    region: str
    user_agent: str
    context: ssl.SSLContext | None
