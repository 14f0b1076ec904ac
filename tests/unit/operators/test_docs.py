"""docs/operators.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from broker.errors import Reason
from broker.operators import duties, second_factor
from broker.operators.duties import BREAK_GLASS
from broker.operators.file import read_operators
from broker.operators.model import Role

TEXT = (Path(__file__).parents[3] / "docs" / "operators.md").read_text()


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_file_in_it_is_good() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", section("The file"), re.DOTALL)
    found = read_operators(example.encode(), "docs/operators.md", trust_domain="prod.acme.internal", opens=False)
    assert found.operators["ann"].has(Role.APPROVER)


def test_every_role_includes_what_its_row_says() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \|(.*)\|$", section("Roles"), re.MULTILINE)
    assert [name for name, _ in rows] == [role.value for role in Role]
    for name, rest in rows:
        included = {Role(one) for one in re.findall(r"`(\w+)`", rest.split("not", 1)[0])}
        assert Role(name).includes == included | {Role(name)}


def test_every_refusal_has_its_row_and_only_two_are_set_aside() -> None:
    rows = re.findall(r"^\|.*\| `([A-Z_]+)` \| (.*) \|$", section("Who may not"), re.MULTILINE)
    used = set(re.findall(r"Reason\.([A-Z_]+)", Path(duties.__file__).read_text()))
    assert {name for name, _ in rows} == used - {"APPROVAL_DECIDED"} | {"SECOND_FACTOR_MISSING"}
    assert {Reason(name) for name, aside in rows if "yes" in aside} == BREAK_GLASS


def test_every_refusal_of_a_code_has_its_row() -> None:
    told = {*re.findall(r"^\|.*\| `(CODE_[A-Z]+)` \|$", section("Second factors"), re.MULTILINE)}
    assert told == {*re.findall(r"Reason\.(CODE_[A-Z]+)", Path(second_factor.__file__).read_text())}
