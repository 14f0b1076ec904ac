"""Step `repair`: a runaway. It asks for something powerful again and again, until it is stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path

import stepcred

MANY = 20  # more than any budget of tier `high`: a broker that never stops it must not keep us here

tokens: list[str] = []
with stepcred.connect() as broker, broker.step(scopes=["orders-admin"]) as step:
    try:
        for _ in range(MANY):
            credential = step.issue("orders-admin")
            assert isinstance(credential, stepcred.VaultToken)
            tokens.append(credential.token)
        stopped = "NOTHING"
    except stepcred.GuardRefused as refused:
        stopped = refused.reason
        print(f"repair: {len(tokens)} credentials, then {stopped} (reference {refused.reference_id})")
if tokens:
    print(f"repair: {step.summary()}")

# For the demo only: the thief's copy, to be tried once the step is over.
Path(os.environ["DEMO_COPY"]).write_text(json.dumps({"tokens": tokens, "stopped": stopped}))
