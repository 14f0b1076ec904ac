"""The receiving side of a signed webhook, as docs/alerts.md shows it; nothing of the broker's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs" / "alerts.md"


def shown() -> Callable[[Mapping[str, str], bytes, str], Any]:
    """The function of the Python example in the docs."""
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(example, str(DOCS), "exec"), namespace)
    found: Callable[[Mapping[str, str], bytes, str], Any] = namespace["verified"]
    return found
