"""A dev broker that runs already, found by its folder: for another terminal."""

from __future__ import annotations

import json
from pathlib import Path

from broker import process
from broker.clock import SystemClock
from broker.errors import ConfigError
from broker.identity.dev_ca import Issued
from broker.policy.problems import ScopeMapError
from broker.wiring.dev.agents import describe
from broker.wiring.dev.folder import living
from broker.wiring.dev.maps import load_dev_map
from broker.wiring.dev.site import Site, issue
from broker.wiring.dev.told import settings

_NOTE = "broker.json"


def note(site: Site) -> None:
    """Where it serves, for those who look for it."""
    told = {"addr": str(site.listen), "ca": str(site.root), "map": str(site.map_file)}
    process.replace_file(site.folder / _NOTE, json.dumps(told))


def settings_for(spiffe_id: str) -> dict[str, str]:
    """A certificate and where to show it. Raises ConfigError: none runs, several do, or it is no name of its map's."""
    folders = [folder for folder in living() if (folder / _NOTE).exists()]
    if not folders:
        raise ConfigError(["no dev broker of this user runs here; start one: stepcred-broker dev --scopes DIR"])
    if len(folders) > 1:
        raise ConfigError([f"{len(folders)} dev brokers run here: start this one with --agent {spiffe_id}"])
    told = json.loads((folders[0] / _NOTE).read_text())
    issued = issue(folders[0], spiffe_id)
    try:
        agent = describe(load_dev_map(Path(told["map"])), spiffe_id, SystemClock().now())
    except ScopeMapError as error:
        raise ConfigError([str(problem) for problem in error.problems]) from None
    return settings(told["addr"], Issued(cert=issued.cert, key=issued.key, ca=Path(told["ca"])), agent)
