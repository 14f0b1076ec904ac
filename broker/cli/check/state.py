"""Looks at what the broker keeps, and at its scope map."""

from __future__ import annotations

from collections.abc import Mapping

from broker import keyring
from broker.cli.check.looked import Looked
from broker.config import Config
from broker.errors import ConfigError, StoreError


def mint_key(settings: Config) -> Looked:
    """Key and database belong together; before the first start there may be neither, and both will be made."""
    from broker.store.mint_keys import MAYBE_LOST, lost_database
    from broker.store.sqlite import open_readonly

    path, database = settings.store.mint_key_file, settings.store.path
    if not database.exists() and not path.exists():
        return Looked()
    notes = []
    try:
        ring = keyring.load(path)
        known: Mapping[str, str] = {}
        if database.exists():
            with open_readonly(database) as store:
                known = store.read(lambda tx: tx.control().key_fingerprints)
        if not known and not settings.store.anchor.exists():  # an anchor's own look says it
            if why := lost_database(path):
                return Looked(errors=[why])
            notes.append(MAYBE_LOST)
    except ConfigError as error:
        return Looked(errors=error.problems)
    except StoreError as error:
        return Looked(errors=[str(error)])
    if any(ring.fingerprints.get(kid) != fingerprint for kid, fingerprint in known.items()):
        return Looked(
            errors=[
                (
                    f"mint_key_file {path}: not the key of database {database}; restore the file made with it, "
                    "or see docs/recovery.md"
                )
            ]
        )
    return Looked(notes=notes)


def anchor(settings: Config) -> Looked:
    """Does the database still hold what it once had?"""
    from broker.journal import anchor as anchors
    from broker.store.anchoring import HELP, misfit
    from broker.store.sqlite import open_readonly

    path, database = settings.store.anchor, settings.store.path
    try:
        held = anchors.read(path)
        if not database.exists():
            gone = [f"anchor_file {path}: there was a database, and it is gone; {HELP}"]
            return Looked(errors=gone if held else [])
        with open_readonly(database) as store:
            problem = store.read(lambda tx: misfit(tx, held))
    except ConfigError as error:
        return Looked(errors=error.problems)
    except StoreError:
        return Looked()  # the mint key's look has said so
    return Looked(errors=[f"anchor_file {path}: {problem}; {HELP}"] if problem else [])


def scope_map(settings: Config) -> Looked:
    """Does it load, and is there a section for each of its providers, and a receiver for each name of one?"""
    from broker.policy.problems import ScopeMapError
    from broker.wiring import offline

    try:
        loaded = offline.scope_map(settings)
    except ScopeMapError as error:
        return Looked(errors=[str(problem) for problem in error.problems])
    configured = {name for name in ("vault", "aws") if getattr(settings, name) is not None}
    return Looked(
        errors=[
            f"{scope.rule.file}:{scope.rule.line}: scope {scope.name} needs a section [{scope.provider}] in the config"
            for scope in loaded.scopes.values()
            if scope.provider not in configured
        ],
        notes=[
            f"tier {name} tells {rule.compensate} of a lock, and there is no [compensation.{rule.compensate}] in the config: "
            "what it should undo waits until there is"
            for name, rule in loaded.tiers.items()
            if rule.compensate and rule.compensate not in settings.compensation
        ],
    )


def operators(settings: Config) -> Looked:
    """Would the daemon take the operators file, as it is and as it lies there?"""
    from broker.operators.registry import operators_source

    asked = settings.operators
    if asked is None or asked.file is None:
        return Looked()
    source = operators_source(
        asked.file,
        asked.second_factor_key_file,
        trust_domain=settings.trust_domain,
        keys=settings.scopes.keys,
    )
    return Looked(errors=source.problems)
