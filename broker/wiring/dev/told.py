"""What to paste to be an agent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote

from broker.identity.dev_ca import Issued
from broker.model import JsonValue
from broker.policy.problems import show
from broker.wiring.dev.agents import Named, open_patterns
from broker.wiring.dev.broker import DevBroker


def settings(addr: str, issued: Issued, agent: Named) -> dict[str, str]:
    """The STEPCRED_* variables of this agent's process."""
    files = {"ADDR": addr, "CERT": issued.cert, "KEY": issued.key, "CA": issued.ca}
    step = {name.upper(): value for name, value in agent.step.items()}
    return {f"STEPCRED_{name}": str(value) for name, value in {**files, **step}.items()}


def export(variables: Mapping[str, str]) -> str:
    """One line for a shell."""
    return "export " + " ".join(f"{name}={quote(value)}" for name, value in variables.items())


def env_file(variables: Mapping[str, str]) -> str:
    """KEY=VALUE lines; nothing in them needs a quote that not every reader understands alike."""
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def is_env_file(path: Path) -> bool:
    """Does it hold an agent's settings and nothing else? Raises OSError."""
    lines = path.read_text(errors="replace").splitlines()
    return all(line.startswith("STEPCRED_") and "=" in line for line in lines)


def agent_json(broker: DevBroker, agent: Named) -> dict[str, JsonValue]:
    """With a certificate. Raises ConfigError."""
    issued = broker.site.issue(agent.id)
    issued_by_us = Issued(cert=issued.cert, key=issued.key, ca=broker.site.root)
    return {
        "id": agent.id,
        "workloads": list(agent.workloads),
        "launchers": list(agent.launchers),
        "scopes": list(agent.scopes),
        "env": settings(broker.addr, issued_by_us, agent),
    }


def overview(broker: DevBroker, named: Sequence[Named]) -> dict[str, JsonValue]:
    """Everything, for programs."""
    site = broker.site
    return {
        "addr": broker.addr,
        "http": f"http://{site.http}",
        "ca": str(site.root),
        "folder": str(site.folder),
        "map": str(site.map_file),
        "environment": site.environment,
        "trust_domain": site.trust_domain,
        "agents": [agent_json(broker, one) for one in named],
        "open": open_patterns(broker.map, named),
    }


def lines(told: Mapping[str, JsonValue]) -> Iterator[str]:
    """An overview for people: each line that is no comment makes a shell one agent."""
    yield f"# dev broker for {told['map']}, environment {told['environment']}: stand-ins only, gone when it stops"
    for agent in told["agents"]:
        who = ", ".join([*agent["workloads"], *(f"launcher {name}" for name in agent["launchers"])])
        may = f"may have {', '.join(agent['scopes'])}" if agent["scopes"] else "may have nothing"
        yield f"# {who or 'no workload of the map'}: {show(agent['id'])[1:-1]}, {'opens steps' if agent['launchers'] else may}"
        yield export(agent["env"])
    for pattern in told["open"]:
        yield f"# for {pattern}: stepcred-broker dev --as {json.dumps(pattern)}, with names in the place of {{…}}"
