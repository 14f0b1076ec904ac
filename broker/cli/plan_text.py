"""A plan for a terminal, and for a comment under a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from broker.cli.options import count
from broker.policy.analysis.changes import Change, Kind, for_workflows
from broker.policy.analysis.plan import Plan, line

_STYLES = {Kind.GAINED: "red", Kind.LOOSENED: "red", Kind.LOST: "green", Kind.TIGHTENED: "green", Kind.NOTE: ""}
_LONGEST = 300  # characters of one cell of a table
_ROWS = 200  # of one table: a comment has an end
_HARMLESS = " !#$%&'()*+,-./:;<=>?@[]^_{}~→…\""


def styled(found: Plan) -> list[tuple[str, str]]:
    """Lines for a terminal, as (style, line)."""
    lines = []
    for change in found.changes:
        lines.append((_STYLES[change.kind], line(change)))
        if change.refused:
            lines.append(("dim", f"    otherwise {change.refused}"))
    return [*lines, ("bold red" if found.widens else "bold green", verdict(found))]


def verdict(found: Plan) -> str:
    """One sentence."""
    counts = found.counts()
    said = [f"{counts[kind.value]} {kind.value}" for kind in Kind if kind is not Kind.NOTE and counts[kind.value]]
    if not said:
        notes = count(counts[Kind.NOTE.value], "note")
        return f"nobody gains or loses anything{f'; {notes}' if counts[Kind.NOTE.value] else ''}"
    return f"{'widens' if found.widens else 'only narrows'}: {', '.join(said)}"


def markdown(found: Plan) -> str:
    """A comment under a pull request. Whatever the maps say stands in code spans, where nothing is obeyed."""
    mark = "⚠ " if found.widens else ""
    sections = (
        ("⚠ More than before", (Kind.GAINED, Kind.LOOSENED)),
        ("Less than before", (Kind.LOST, Kind.TIGHTENED)),
        ("Notes", (Kind.NOTE,)),
    )
    lines = [f"### {mark}Scope map: {verdict(found)}"]
    for title, kinds in sections:
        changes = [change for change in found.changes if change.kind in kinds]
        if changes:
            lines += ["", f"#### {title}", "", *(_notes(changes) if Kind.NOTE in kinds else _table(changes))]
    return "\n".join(lines) + "\n"


def _table(changes: list[Change]) -> Iterator[str]:
    yield "| | scope | workload | for | what | rule |"
    yield "|---|---|---|---|---|---|"
    for change in changes[:_ROWS]:
        launches = change.attribute == "launch"
        conditions = ", ".join([for_workflows(change), *change.conditions])
        what = f"{change.attribute} {change.before} → {change.after}" if change.attribute and not launches else ""
        cells = [
            change.kind.value,
            code("(opens steps)" if launches else change.scope),
            f"{code(change.workload)} {code(change.pattern)}" if change.workload else "nobody has it",
            code(conditions) if change.workload else "",
            code(what) if what else "",
            code(str(change.rule)),
        ]
        yield f"| {' | '.join(cells)} |"
    yield from _more(len(changes))


def _notes(changes: list[Change]) -> Iterator[str]:
    for change in changes[:_ROWS]:
        yield f"- {code(f'{change.attribute}: {change.before} → {change.after}')}"
    yield from _more(len(changes))


def _more(number: int) -> Iterable[str]:
    return ("", f"… and {number - _ROWS} more.") if number > _ROWS else ()


def code(text: str) -> str:
    """A code span that nothing ends: what could end it, or a table's cell, becomes `?`."""
    shown = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    plain = "".join(
        letter if letter in _HARMLESS or (letter.isascii() and letter.isalnum()) else "?" for letter in shown
    )
    return f"`{plain}`" if plain.strip() else ""
