"""`--keep`: what to type while everything is still running."""

from __future__ import annotations

from shlex import quote

from tests.demo.commands import BIN
from tests.demo.site import Site, spiffe_id
from tests.demo.stage import RUN_ID


def by_hand(site: Site, reference: str, waiting: str) -> list[tuple[str, str]]:
    """(what it is for, command), for another terminal. Makes env.sh, which turns a shell into step `extract`.

    `reference`: of the refusal that step `report` was told. `waiting`: an approval that nobody has decided.
    """
    lines = [f'export PATH={quote(str(BIN))}:"$PATH"']
    lines += [f"export {name}={quote(value)}" for name, value in site.environment("extract", "by-hand").items()]
    (site.folder / "env.sh").write_text("\n".join(lines) + "\n")
    metrics = f"http://127.0.0.1:{site.http_port}/metrics"
    whose = {**site.admin_environment("ann"), "STEPCRED_ADMIN_CODE_FILE": str(site.folder / "ann.code")}
    ann = " ".join(f"{name}={quote(value.removeprefix(f'{site.folder}/'))}" for name, value in whose.items())
    code = "import pyotp; print(pyotp.parse_uri(open('ann.otpauth').read().strip()).now())"
    return [
        ("be step extract (STEPCRED_ADDR, …)", f"cd {quote(str(site.folder))} && . ./env.sh"),
        ("who the broker takes you for", "stepcred whoami"),
        ("may I? opens nothing", "stepcred can orders-read"),
        ("and this?", "stepcred can lake-write"),
        (
            "why not, for the operator",
            f"stepcred-broker scopes explain {spiffe_id('extract')} lake-write --map scopes.yaml",
        ),
        ("a token for one command", "stepcred exec --scope orders-read -- bao read secret/data/orders"),
        ("what report was refused", f"stepcred-broker scopes explain --denial {reference} --database broker.db"),
        ("does the journal hold?", "stepcred-broker audit verify --database broker.db"),
        ("its last records", "stepcred-broker audit export --database broker.db | tail -n 3"),
        ("what operators measure", f"curl -s {metrics} | grep ^stepcred"),
        ("be operator ann, too", f"export {ann}"),
        ("all that is alive, live", "stepcred admin top"),
        ("what fires", "stepcred admin alerts"),
        ("the run's story", f"stepcred admin timeline {RUN_ID}"),
        ("what waits for people", "stepcred admin approvals list"),
        ("a code of ann's, each good once", f'python -c "{code}" > ann.code'),
        ("say yes with it, as one of two", f"stepcred admin approvals approve {waiting} --reason 'by hand'"),
        ("the daemon's log", "tail broker.log"),
    ]
