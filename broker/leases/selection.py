"""Which steps and leases an operator means."""

from __future__ import annotations

from dataclasses import dataclass, fields

from broker.model import JsonValue, Lease, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Whatever fits every field that is set. With none set it selects nothing: all must be asked for by name."""

    agent: str = ""  # SPIFFE ID
    workflow: str = ""
    run: str = ""
    step: str = ""
    scope: str = ""
    provider: str = ""
    leases: frozenset[str] = frozenset()
    everything: bool = False

    def of_step(self, step: Step) -> bool:
        """Is this step meant? Never by what only a lease has."""
        key = step.key
        asked = ((self.agent, key.agent), (self.workflow, key.workflow), (self.run, key.run), (self.step, key.step))
        return not self._only_leases and self._fits(asked)

    def of_lease(self, lease: Lease, step: Step | None) -> bool:
        """Is this lease meant? `step` is its own."""
        if self.leases and lease.id not in self.leases:
            return False
        names = (step.key.workflow, step.key.run, step.key.step) if step else ("", "", "")
        had = (lease.agent, *names, lease.scope, lease.provider)
        wanted = (self.agent, self.workflow, self.run, self.step, self.scope, self.provider)
        return self._fits(tuple(zip(wanted, had, strict=True)), named=bool(self.leases))

    def told(self) -> dict[str, JsonValue]:
        """What is set, for the journal."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: sorted(value) if isinstance(value, frozenset) else value for name, value in found.items() if value
        }

    @property
    def _only_leases(self) -> bool:
        return bool(self.leases or self.scope or self.provider)

    def _fits(self, asked: tuple[tuple[str, str], ...], *, named: bool = False) -> bool:
        narrowed = named or any(wanted for wanted, _ in asked)
        return (narrowed or self.everything) and all(wanted in ("", had) for wanted, had in asked)
