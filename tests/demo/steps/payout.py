"""Step `payout`: asks for something that two people must say yes to, and waits for them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import stepcred

copy: dict[str, object] = {"tokens": []}


def waiting(needed: stepcred.NeedsApproval) -> None:
    """Told at the start, and after each change."""
    print(f"payout: waits for {needed.approval_id}, {needed.approvals_given} of {needed.approvals_needed} said yes")


with stepcred.connect() as broker, broker.step(scopes=["payments-release"]) as step:
    credential = step.issue("payments-release", approval_timeout=30, on_waiting=waiting)
    assert isinstance(credential, stepcred.VaultToken)
    copy["tokens"] = [credential.token]  # for the demo only: the thief's copy
    try:
        step.issue("payments-release")
    except stepcred.NeedsApproval as refused:
        print("payout: has one credential; another one needs another approval")
        copy |= {"second": refused.reason, "waits": refused.approval_id}
print(f"payout: {step.summary()}")

Path(os.environ["DEMO_COPY"]).write_text(json.dumps(copy))
