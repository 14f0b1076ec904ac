"""Only the active node's word counts, also when a standby was asked."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping

INDEX = "X-Vault-Index"
FAR_AHEAD = str(1 << 62)  # no log gets there


class ActiveOnly:
    """Makes a standby hand on whatever it is asked, once any answer has been heard. Shared by all pools.

    A standby of OpenBao answers reads by itself, and its state may be old: a live token's look-up was answered "bad
    token", and a dead one's 200, a moment after the change (25 and 3 in 300, measured). Told that it is behind, it
    asks the active node. Servers that send no such index do not answer by themselves.
    """

    def __init__(self) -> None:
        self._cluster = ""
        self._headers: dict[str, str] = {}

    def headers(self) -> Mapping[str, str]:
        """For the next request."""
        return self._headers

    def hear(self, index: str) -> None:
        """Of an answer: `{"cluster": …, "value": …}` in base64. Another form, of another product, is not imitated."""
        try:
            told = json.loads(binascii.a2b_base64(index, strict_mode=True).decode())
            cluster = str(told["cluster"])
        except (binascii.Error, ValueError, TypeError, KeyError):
            return
        if cluster != self._cluster:
            ahead = json.dumps({"cluster": cluster, "value": FAR_AHEAD})
            index = base64.b64encode(ahead.encode()).decode()
            self._cluster, self._headers = cluster, {INDEX: index, "X-Vault-Inconsistent": "forward-active-node"}
