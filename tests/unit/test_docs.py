from __future__ import annotations

import re
from pathlib import Path

from broker.errors import Reason
from broker.rpc.status import CODES

_ROW = re.compile(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \| [^|]+ \| [^|]+ \|$", re.MULTILINE)


def test_every_reason_is_documented_with_the_code_that_it_has_on_the_wire() -> None:
    text = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    documented = dict(_ROW.findall(text))
    assert documented == {reason.value: CODES[reason].name for reason in Reason}
