"""`stepcred-broker scopes`: look at a scope map, offline. Which commands there are."""

from __future__ import annotations

import typer

from broker.cli.analysis import plan, what_can, who_can
from broker.cli.explain import explain
from broker.cli.lint import lint
from broker.cli.map_tests import run_map_tests
from broker.cli.provision import provision
from broker.cli.schema import schema
from broker.cli.signing import keygen, sign
from broker.cli.usage import simulate_command, suggest_command
from broker.cli.verifying import verify

app = typer.Typer(no_args_is_help=True, help="Look at a scope map; all but provision --diff offline.")
app.command("lint")(lint)
app.command("test")(run_map_tests)
app.command("schema")(schema)
app.command("explain")(explain)
app.command("who-can")(who_can)
app.command("what-can")(what_can)
app.command("plan")(plan)
app.command("simulate")(simulate_command)
app.command("suggest")(suggest_command)
app.command("sign")(sign)
app.command("verify")(verify)
app.command("keygen")(keygen)
app.command("provision")(provision)
