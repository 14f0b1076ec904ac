"""Hostile values never reach a provider's parameters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.policy.decision import Allowed, Denial
from broker.policy.templates import VALUE, fill, mistakes, variables
from tests.unit.policy.maps import DOMAIN, a_map, ask, denied

HOSTILE = [
    *(
        "*",
        "+",
        "..",
        ".",
        ",",
        "/",
        "a/b",
        "../../sys/seal",
        "a*",
        "?",
        "a b",
        "",
        " ",
        "a\n",
        "\x00",
        "\x1b[0m",
        "a\x00b",
    ),
    *("${aws:userid}", "{run}", "{workflow}", "%2e%2e", "%2F", "a%00", "a:b", "a=b", "a@b", "\"'", '","Effect":"Allow'),
    *(
        "\u0430dmin",
        "\uff0e\uff0e",
        "a\u200b",
        "a\u202eb",
        "\u00e9",
        "\U0001f600",
        "x" * 65,
        "a.b",
        "a;b",
        "a|b",
        "$(id)",
        "`id`",
    ),
]
GRANTS = 'grants:\n  g: {workloads: [load, plain, team], workflows: ["*"], scopes: [lake, scratch]}\n'


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_a_hostile_value_said_by_a_launcher_never_fills_a_template(value: str) -> None:
    scope_map = a_map(GRANTS)
    for scope, claim in (("lake", "workflow"), ("scratch", "run")):
        asked = ask(scope, agent=f"spiffe://{DOMAIN}/plain", proven=True, **{claim: value})
        decision = denied(scope_map, asked)
        assert decision.reason is Denial.TEMPLATE_VALUE
        assert decision.message.isprintable()


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_a_hostile_value_in_a_certificate_never_fills_a_template(value: str) -> None:
    asked = ask("lake", agent=f"spiffe://{DOMAIN}/workflow/{value}/step/load", workflow=value)
    assert denied(a_map(GRANTS), asked).reason in (Denial.NO_WORKLOAD, Denial.TEMPLATE_VALUE)


@given(st.text(max_size=70))
def test_only_plain_values_ever_fill_a_template(value: str) -> None:
    decision = a_map(GRANTS).decide(ask("scratch", agent=f"spiffe://{DOMAIN}/plain", proven=True, run=value))
    assert isinstance(decision, Allowed) is bool(VALUE.fullmatch(value))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{a}", {"a"}),
        ("x/{a}/{b}", {"a", "b"}),
        ("arn:aws:s3:::lake/{a}/*", {"a"}),
        ("arn:{a}:x", {"a"}),
        ("${aws:userid}", set()),
        ("home/${aws:username}/{a}", {"a"}),
    ],
)
def test_a_variable_fills_a_whole_segment(text: str, names: set[str]) -> None:
    assert mistakes({"x": [text]}) == []
    assert variables({"x": [text]}) == names
    assert fill(text, dict.fromkeys(names, "V")) == text.replace("{a}", "V").replace("{b}", "V")


@pytest.mark.parametrize(
    "text",
    [
        "x{a}",
        "{a}x",
        "{a}*",
        "{a}.json",
        "{a}{b}",
        "{{a}}",
        "{",
        "}",
        "{}",
        "{A}",
        "{a b}",
        "$${a}",
        "{a}\n",
        "-{a}",
        "${a",
    ],
)
def test_a_brace_anywhere_else_is_a_mistake(text: str) -> None:
    found = mistakes({"x": text})
    assert bool(found) is (text != "$${a}")  # which stays AWS's, untouched
    assert variables({"x": text}) == frozenset()
