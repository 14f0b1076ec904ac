"""Step `repair`: a runaway. It asks for something powerful again and again, until it is stopped."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import stepcred

# More than any budget of tier `high`: a broker that never stops it must not keep us here.
MANY = 1 if "--once" in sys.argv else 20

tokens: list[str] = []
with stepcred.connect() as broker, broker.step(scopes=["orders-admin"]) as step:
    try:
        for _ in range(MANY):
            credential = step.issue("orders-admin")
            assert isinstance(credential, stepcred.VaultToken)
            tokens.append(credential.token)
        stopped = "NOTHING"
        print(f"repair: {len(tokens)} credential, and that is enough")
    except stepcred.GuardRefused as refused:
        stopped = refused.reason
        print(f"repair: {len(tokens)} credentials, then {stopped} (reference {refused.reference_id})")
if tokens:
    print(f"repair: {step.summary()}")

# For the demo only: the thief's copy, to be tried once the step is over.
Path(os.environ["DEMO_COPY"]).write_text(json.dumps({"tokens": tokens, "stopped": stopped}))
