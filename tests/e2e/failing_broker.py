"""The daemon with all debugging turned on from inside, and with a failure to order in the one place that holds secrets.

While the folder that FAIL names is there, each minted credential is noted in it and then lost in an exception, among the
locals and, but for stored values, in the text.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from broker import process
from broker.__main__ import main
from broker.log import PINNED

FAIL = "STEPCRED_TEST_FAIL"

_harden = process.harden


def _hardened(*environ: Any) -> list[str]:
    """As it is; and only then grpc is loaded, which reads its variables at that moment."""
    problems = _harden(*environ)
    from broker.rpc.servicer import Servicer

    issue: Any = Servicer.issue_credential

    async def issue_credential(self: Servicer, request: Any, agent: Any, context: Any) -> Any:
        answer = await issue(self, request, agent, context)
        _debug_everything()  # once AWS's client is made, which quiets its libraries again at each call
        logging.getLogger("urllib3.connectionpool").debug("Response body: %s", answer)
        return _lose(answer)

    Servicer.issue_credential = issue_credential  # type: ignore[assignment, method-assign]
    return problems


def _lose(answer: Any) -> Any:
    folder = Path(os.environ[FAIL])
    if folder.is_dir():
        credential = answer.credential
        (folder / answer.lease.lease_id).write_bytes(credential.SerializeToString())
        # A stored value has no name that sounds like a secret: for that there is only the first net.
        told = "" if credential.HasField("key_value") else str(credential)
        raise RuntimeError(f"failed with {told}")
    return answer


@cache
def _around_our_handler() -> None:
    import boto3

    for name in ("boto3", "botocore", "urllib3"):
        boto3.set_stream_logger(name)


def _debug_everything() -> None:
    """What somebody does who looks for a fault, after we have set everything up."""
    _around_our_handler()
    for name in PINNED:
        logging.getLogger(name).setLevel(logging.DEBUG)


if __name__ == "__main__":
    process.harden = _hardened  # type: ignore[assignment]
    sys.exit(main())
