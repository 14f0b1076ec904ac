"""`stepcred-broker scopes schema`: a JSON Schema, so that editors complete and check maps while they are written."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli.maps import kinds, print_json
from broker.policy.language.schema.json_schema import root_schema, team_schema


def schema(
    *,
    team: Annotated[bool, typer.Option("--team", help="Of a team's file instead of a root map.")] = False,
) -> None:
    """Print the JSON Schema of a scope map."""
    print_json(team_schema(kinds()) if team else root_schema(kinds()))
