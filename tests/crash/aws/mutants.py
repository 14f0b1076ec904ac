"""The daemon without one of its mechanisms: the judge must find each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from broker.model import Evidence
from broker.providers.aws.calls import Failure
from broker.providers.aws.denies.contents import Contents
from broker.providers.aws.denies.policy import Held
from broker.providers.aws.denies.writer import Writer
from broker.providers.aws.ending import Ending
from broker.providers.aws.scopes import compile as compiling
from broker.providers.base import Settlement


def no_read_back() -> None:
    """What was sent is taken for written."""
    put = Writer._put

    async def believing(self: Any, draft: Any) -> Any:
        iam = self._iam

        async def fine(operation: str, **parameters: Any) -> Any:
            answer = await iam(operation, **parameters)
            sent_in_doubt = isinstance(answer, Failure) and answer.sent and answer.status in (0, 503)
            return {} if operation == "put_role_policy" and sent_in_doubt else answer

        async def read_back() -> None:
            self._held, self._unread = Held(names=frozenset(draft.entries), cut=draft.cut), False
            self._claim()

        self._iam, self._read_back = fine, read_back
        try:
            return await put(self, draft)
        finally:
            self._iam = iam
            del self._read_back

    setattr(Writer, "_put", believing)  # noqa: B010 - deliberate: this process is the mutant


def in_doubt_not_denied() -> None:
    """A mint whose answer was lost is left to its bound."""

    async def settle(self: Any, ref: Any) -> Settlement:
        return Settlement(found=False)

    setattr(Ending, "settle", settle)  # noqa: B010


def written_is_dead() -> None:
    """A deny that was written counts as evidence."""
    deny = Ending._deny

    async def denied(self: Any, ref: Any, *, may_cut: bool) -> Any:
        progress = await deny(self, ref, may_cut=may_cut)
        return replace(progress, evidence=Evidence.PROBE_DENIED) if "deny_written_at" in progress.refs else progress

    setattr(Ending, "_deny", denied)  # noqa: B010


def forgetful() -> None:
    """Each write names only who ends now."""
    want = Contents.want

    def alone(self: Any, lease_id: str, entry: Any) -> None:
        self.wanted.clear()
        self._sent.clear()
        want(self, lease_id, entry)

    setattr(Contents, "want", alone)  # noqa: B010


def no_bound() -> None:
    """The session lives as long as STS lets it."""
    whole = compiling.unbounded_policy

    def endless(block: Any, bound: Any) -> str:
        return whole(block, bound.replace(year=bound.year + 1))

    setattr(compiling, "unbounded_policy", endless)  # noqa: B010


MUTANTS = {
    "no-read-back": no_read_back,
    "in-doubt-not-denied": in_doubt_not_denied,
    "written-is-dead": written_is_dead,
    "forgetful": forgetful,
    "no-bound": no_bound,
}
