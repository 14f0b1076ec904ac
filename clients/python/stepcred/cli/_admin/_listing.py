"""What every paged list is: asked for, then a table or JSON, once or again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stepcred._admin import Office
from stepcred.cli._admin import _options as o
from stepcred.cli._admin._output import as_json, watch


def listing(
    method: str,
    field: str,
    table: Callable[[Sequence[Any]], None],
    *,
    limit: int,
    every: float | None,
    json_too: bool,
    keep: Callable[[Any], bool] = lambda _row: True,
    **asked: Any,
) -> int:
    """The command's exit code. `field`: of the answer, and in the JSON; `keep`: which rows of it are shown."""
    with Office() as office:

        def show() -> int:
            found = [row for row in o.rows(office, method, field, limit=limit, **asked) if keep(row)]
            if json_too:
                as_json({field: found}, compact=every is not None)
            else:
                table(found)
            return 0

        return watch(every, show)
