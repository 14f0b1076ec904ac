"""Explain, timeline and the journal: what has happened, and what happens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from google.protobuf.message import Message

from broker.leases.core import check_name
from broker.operators.model import Caller
from broker.operators.views.explain import explain
from broker.operators.views.journal import tail, tail_of, timeline
from broker.rpc.operators import convert
from broker.rpc.operators.parts import Parts
from broker.rpc.pipeline import Method, Stream
from stepcred.v1 import operator_pb2 as pb


class Stories:
    """From the journal."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.core.store

    def methods(self) -> Mapping[str, Method | Stream]:
        """Name in the service → implementation."""
        return {"Explain": self.explain, "GetTimeline": self.get_timeline, "TailJournal": self.tail_journal}

    async def explain(self, request: pb.ExplainRequest, _caller: Caller, _context: Any) -> Message:
        scope_map, now = self._parts.core.policies.map, self._parts.core.clock.now()
        told = await self._store.read(lambda tx: explain(tx, request.reference, scope_map=scope_map, now=now))
        return pb.ExplainResponse(lines=told.lines, records=map(convert.struct, told.records))

    async def get_timeline(self, request: pb.GetTimelineRequest, _caller: Caller, _context: Any) -> Message:
        run = check_name("run", request.run)
        workflow = check_name("workflow", request.workflow) if request.workflow else ""
        found = await self._store.read(lambda tx: timeline(tx, run, workflow))
        return pb.GetTimelineResponse(entries=convert.entries(found.entries), more=found.more)

    async def tail_journal(
        self, request: pb.TailJournalRequest, _caller: Caller, _context: Any
    ) -> AsyncGenerator[Message, None]:
        core = self._parts.core
        asked = tail_of(
            (request.after_chain, request.after_seq), back=request.back, follow=request.follow, kinds=request.kinds
        )
        async with aclosing(tail(self._store, core.clock, asked, core.draining.is_set)) as parcels:
            async for parcel in parcels:
                yield pb.TailJournalResponse(entries=convert.entries(parcel))
