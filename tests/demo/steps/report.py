"""Step `report`: gets what it was granted, and is refused what it was not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import stepcred

copy: dict[str, object] = {}
with stepcred.connect() as broker, broker.step(scopes=["prices-read", "lake-write"]) as step:
    prices = step.issue("prices-read")
    assert isinstance(prices, stepcred.VaultToken)
    copy["tokens"] = [prices.token]  # for the demo only: the thief's copy
    try:
        step.issue("lake-write")
        print("report: has lake-write")
    except stepcred.AccessDenied as refused:
        print(f"report: {refused}")
        copy |= {"reason": refused.reason, "reference": refused.reference_id}
print(f"report: {step.summary()}")

Path(os.environ["DEMO_COPY"]).write_text(json.dumps(copy))
