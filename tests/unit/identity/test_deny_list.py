"""The deny list: what it names, what it does not, and what is not taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import ConfigError
from broker.identity.deny_list import DenyList, Entry, deny_list_of, parse_deny_list
from broker.model import Certificate

LOAD = "spiffe://test.local/workflow/nightly/step/load"
KEY = "ab" * 32
CERTIFICATE = Certificate(spki_sha256=KEY, serial_number="7b22c0de", issuer="CN=agents")


def read(text: str) -> DenyList:
    return parse_deny_list(text.encode(), "denied.toml")


@pytest.mark.parametrize(
    ("entry", "denied"),
    [
        (f'agent = "{LOAD}"', True),
        (f'agent = "{LOAD}"\nwhy = "stolen"', True),
        ('agent = "spiffe://test.local/workflow/nightly/*"', True),
        ('agent = "spiffe://test.local/workflow/*"', True),
        ('agent = "spiffe://test.local/workflow/nightly"', False),
        ('agent = "spiffe://test.local/workflow/night/*"', False),
        (f'agent = "{LOAD}/*"', False),
        ('agent = "spiffe://other.local/workflow/nightly/step/load"', False),
        (f'key = "sha256:{KEY}"', True),
        (f'key = "sha256:{"ac" * 32}"', False),
        ('serial = "7b22c0de"', True),
        ('serial = "00:7B:22:C0:DE"', True),
        ('serial = "0x7B22C0DE"', True),
        ('serial = "7b22c0df"', False),
        ('serial = "7b22c0de"\nissuer = "CN=agents"', True),
        ('serial = "7b22c0de"\nissuer = "CN=others"', False),
        ('serial = "7b22c0de"\nissuer = "2.5.4.3=agents"', True),
    ],
)
def test_who_is_on_it(entry: str, denied: bool) -> None:  # noqa: FBT001
    assert read(f"[[denied]]\n{entry}").names(LOAD, CERTIFICATE) is denied


def test_an_empty_one_denies_nobody_and_an_unknown_certificate_is_not_on_it() -> None:
    assert not read("# nobody yet\n").names(LOAD, CERTIFICATE)
    assert not read('[[denied]]\nserial = "1"\n').names(LOAD, Certificate())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[denied]]", "entry 1: name exactly one of"),
        (f'[[denied]]\nagent = "{LOAD}"\nserial = "1"', "name exactly one of"),
        ('[[denied]]\nagent = "*"', "agent: not a workload's SPIFFE ID"),
        ('[[denied]]\nagent = "spiffe://test.local/*"', "agent: not a workload's SPIFFE ID"),
        ('[[denied]]\nagent = "spiffe://test.local/a*"', "agent: "),
        ('[[denied]]\nagent = "spiffe://Test.local/a"', "agent: "),
        ('[[denied]]\nkey = "sha256:AB"', "key: write"),
        ('[[denied]]\nserial = "12345678901234567890 "', "serial: write it in hexadecimal"),
        ('[[denied]]\nserial = "0"', "serial: write it in hexadecimal"),
        ("[[denied]]\nserial = 12", "every value is a text"),
        ('[[denied]]\nserial = ""', "every value is a text"),
        ('[[denied]]\nissuer = "CN=a"', "name exactly one of"),
        (f'[[denied]]\nkey = "sha256:{KEY}"\nissuer = "CN=a"', "issuer goes with serial"),
        ('[[denied]]\nserial = "1"\nissuer = "O = acme, CN = a"', "issuer: write it as RFC 4514"),
        ('[[denied]]\nserial = "1"\nissuer = "/CN=a"', "issuer: write it as RFC 4514"),
        ('[[denied]]\nspiffe = "a"', "'spiffe' is not known"),
        ('[[denied]]\nserial = "1"\nissuer = "O = Acme, CN = agents"', "issuer: write it as RFC 4514 does"),
        ('[[denied]]\nserial = "1"\nissuer = "agents"', "issuer: write it as RFC 4514 does"),
        (f"[[denied]]\nserial = {'1' * 5000}", "cannot be read: "),
        ('[[deny]]\nserial = "1"', "'deny' is not known here"),
        ('denied = "all"', "denied is a list"),
        ("denied = [1]", "is not a table"),
        ("[[denied", "is not TOML"),
        ("[" * 5000, "is "),
    ],
)
def test_what_says_nothing_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace("[", r"\[")) as refused:
        read(text)
    assert all(problem.startswith("denied.toml: ") for problem in refused.value.problems)


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        read('[[denied]]\nserial = "z"\n[[denied]]\nserial = "1"\n[[denied]]\nagent = "a"\n')
    assert [problem[:21] for problem in refused.value.problems] == ["denied.toml: entry 1:", "denied.toml: entry 3:"]


_SEGMENT = st.text("ab", min_size=1, max_size=2)
_PATH = st.lists(_SEGMENT, min_size=1, max_size=4).map("/".join)


@given(asked=_PATH, listed=_PATH, below=st.booleans())
def test_below_means_every_name_under_it_and_no_other(asked: str, listed: str, below: bool) -> None:  # noqa: FBT001
    entry = Entry(agent=f"spiffe://d/{listed}" + ("/*" if below else ""))
    expected = asked.startswith(listed + "/") if below else asked == listed
    assert deny_list_of([entry]).names(f"spiffe://d/{asked}", Certificate()) is expected
