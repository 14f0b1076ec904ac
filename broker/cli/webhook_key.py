"""`stepcred-broker webhook-key`: what webhooks are signed with, and what their receivers verify them with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from broker.config.webhook_key import load_webhook_key, make_webhook_key, public_text


def webhook_key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Made when it does not exist; never replaced.")],
) -> None:
    """Make the key that webhooks are signed with, and print its public key. Of a FILE that is there: print it again.

    Exit code 73 when FILE cannot be written, 78 when what is there is no such key.
    """
    try:
        key = make_webhook_key(file)
    except FileExistsError:
        key = load_webhook_key(file)
    except OSError as error:
        typer.echo(f"error: {file}: {error.strerror}", err=True)
        raise typer.Exit(os.EX_CANTCREAT) from None
    else:
        typer.echo(f"made {file}, for webhooks.key_file", err=True)
    typer.echo(public_text(key))
    typer.echo(
        "receivers verify with this public key: docs/alerts.md, or a library for Standard Webhooks v1a", err=True
    )
