"""Step `extract`. It knows nothing of stepcred: `stepcred exec` put a Vault token into its environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.request import Request, urlopen

token = os.environ["VAULT_TOKEN"]
url = f"{os.environ['VAULT_ADDR']}/v1/secret/data/orders"
with urlopen(Request(url, headers={"X-Vault-Token": token}), timeout=10) as answer:
    orders = json.load(answer)["data"]["data"]
print(f"extract: logs in to the orders system as {orders['user']}, its password read from OpenBao")

# For the demo only: the thief's copy, to be tried once the step is over.
Path(os.environ["DEMO_COPY"]).write_text(json.dumps({"tokens": [token]}))
