"""`--keep`: what to type while everything is still running."""

from __future__ import annotations

from shlex import quote

from tests.demo.commands import BIN
from tests.demo.site import Site, spiffe_id


def environment_file(site: Site) -> str:
    """Make env.sh, which turns a shell into step `extract` of a run of its own."""
    path = site.folder / "env.sh"
    lines = [f'export PATH={quote(str(BIN))}:"$PATH"']
    lines += [f"export {name}={quote(value)}" for name, value in site.environment("extract", "by-hand").items()]
    path.write_text("\n".join(lines) + "\n")
    return quote(str(path))


def by_hand(site: Site, reference: str) -> list[tuple[str, str]]:
    """(command, what it is for), to be typed in another terminal."""
    database, scope_map = quote(str(site.database)), quote(str(site.scope_map))
    return [
        (f". {environment_file(site)}", "be step extract: STEPCRED_ADDR, _CERT, _KEY, _CA, _WORKFLOW, _RUN, _STEP"),
        ("stepcred whoami", "what the broker makes of your certificate"),
        ("stepcred can orders-read", "yes, and why; opens nothing"),
        ("stepcred can lake-write", "no"),
        ("stepcred exec --scope orders-read -- bao read secret/data/orders", "a token for one command"),
        (f"stepcred-broker scopes explain {spiffe_id('extract')} lake-write --map {scope_map}", "why not"),
        (f"stepcred-broker scopes explain --denial {reference} --database {database} --map {scope_map}", "report's"),
        (f"stepcred-broker audit verify --database {database}", "the journal holds"),
        (f"stepcred-broker audit export --database {database} | tail -n 3", "its last records"),
        (f"curl -s http://127.0.0.1:{site.http_port}/metrics | grep ^stepcred", "what operators measure"),
        (f"tail -f {quote(str(site.folder / 'broker.log'))}", "the daemon's log"),
    ]
