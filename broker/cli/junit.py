"""Outcomes of a map's tests as JUnit XML, which pipelines show."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from xml.etree import ElementTree as ET

from broker.policy.expectations import Outcome
from broker.policy.problems import show

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2


def junit(
    name: str, outcomes: Sequence[Outcome], told: Callable[[Outcome], str], story: Callable[[Outcome], str]
) -> str:
    """One suite. `told`: what was expected and what came, in a line; `story`: all that led to it."""
    failures = str(sum(not outcome.passed for outcome in outcomes))
    counts = {"tests": str(len(outcomes)), "failures": failures, "errors": "0"}
    top = ET.Element("testsuites", counts)
    suite = ET.SubElement(top, "testsuite", {"name": _text(name), **counts})
    for outcome in outcomes:
        test = outcome.test
        place = {"file": _text(test.rule.file), "line": str(test.rule.line)}
        case = ET.SubElement(
            suite, "testcase", {"classname": _text(test.rule.file), "name": readable(outcome), **place}
        )
        if not outcome.passed:
            failure = ET.SubElement(case, "failure", {"type": "expectation", "message": _text(told(outcome))})
            failure.text = _text(story(outcome))
    ET.indent(top)
    return ET.tostring(top, encoding="unicode", xml_declaration=True) + "\n"


def readable(outcome: Outcome) -> str:
    """A name for people, and the same from run to run."""
    test = outcome.test
    when = f" at {test.at:%Y-%m-%dT%H:%MZ}" if test.at else ""
    return _text(f"{test.rule.name}: {show(test.agent)} asks for {test.ask}{when}: {test.expect}")


def _text(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
