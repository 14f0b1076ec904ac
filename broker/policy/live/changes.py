"""What a new map changes, for the journal of a load, and for the question how many must have signed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any

from broker.config import Guard
from broker.log import get_logger
from broker.model import JsonValue, Tier
from broker.policy.analysis.cells import TooManyCombinations
from broker.policy.analysis.limits import BUILT_IN
from broker.policy.analysis.plan import plan
from broker.policy.scope_map import ScopeMap

log = get_logger(__name__)

_SECTIONS = ("workloads", "scopes", "grants", "denies", "nevers", "tiers", "teams", "residency")
_FOR_JOURNAL = 20_000  # questions: seconds, in which a deny that was added in an emergency waits
_FOR_SIGNERS = 200_000
_NAMED = 50  # names in a list of the journal; the count is always whole
_PLACE = frozenset({"rule", "position"})  # where it stands in its file says nothing of what it gives


def describe(old: ScopeMap | None, new: ScopeMap, now: datetime) -> JsonValue:
    """`rules`: what was added, removed and changed, by name; `effect`: who gains and loses what. Without `old` all is new."""
    told: dict[str, JsonValue] = {"rules": rules(old, new)}
    if old is not None:
        try:
            told["effect"] = plan(old, new, now, limit=_FOR_JOURNAL).summary()
        except TooManyCombinations as error:
            told["effect"] = {"unknown": str(error)}
        except Exception:  # a mistake of ours must not keep a good map out
            log.exception("what a new scope map does could not be said")
            told["effect"] = {"unknown": "a mistake of ours; the log has the rest"}
    return told


def widens_high(old: ScopeMap | None, new: ScopeMap, now: datetime, site: Guard = BUILT_IN) -> bool:
    """Is more possible with anything of tier high, from now on? What cannot be said counts as yes.

    `site`: the guard's numbers by the broker's config, which count where a map says nothing.
    """
    if old is None:
        return any(scope.tier is Tier.HIGH for scope in new.scopes.values())
    try:
        return plan(old, new, now, limit=_FOR_SIGNERS, site=site).widens_tier(Tier.HIGH)
    except TooManyCombinations:
        return True
    except Exception:
        log.exception("whether a new scope map widens what is of tier high could not be said")
        return True


def rules(old: ScopeMap | None, new: ScopeMap) -> JsonValue:
    """Section → what was added, removed and changed; sections without any are left out."""
    found = {name: _difference(getattr(old, name) if old else {}, getattr(new, name)) for name in _SECTIONS}
    found["launchers"] = _difference(_launchers(old), _launchers(new))
    found["federates_with"] = _difference(_federations(old), _federations(new))
    return {name: difference for name, difference in found.items() if difference}


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, JsonValue]:
    names = {
        "added": new.keys() - old.keys(),
        "removed": old.keys() - new.keys(),
        "changed": {name for name in old.keys() & new.keys() if _content(old[name]) != _content(new[name])},
    }
    return {what: _bounded(sorted(which)) for what, which in names.items() if which}


def _launchers(scope_map: ScopeMap | None) -> dict[str, Any]:
    return {launcher.name: launcher for launcher in scope_map.launchers.all} if scope_map else {}


def _federations(scope_map: ScopeMap | None) -> dict[str, Any]:
    return dict.fromkeys(scope_map.federates_with) if scope_map else {}


def _content(rule: Any) -> Any:
    if not is_dataclass(rule):
        return rule
    return [getattr(rule, item.name) for item in fields(rule) if item.name not in _PLACE]


def _bounded(names: list[str]) -> JsonValue:
    if len(names) <= _NAMED:
        return list(names)
    return [*names[:_NAMED], f"and {len(names) - _NAMED} more"]
