"""What people need of the daemon, from the config."""

from __future__ import annotations

from broker.config import Config
from broker.leases.core import Core
from broker.operators.registry import Registry, operators_source


def registry_of(config: Config, core: Core) -> Registry:
    """Who operators are. Blocks; a file that is bad is looked at again later."""
    operators = config.operators
    source = None
    if operators is not None and operators.file is not None:
        source = operators_source(
            operators.file,
            operators.second_factor_key_file,
            trust_domain=config.trust_domain,
            keys=config.scopes.keys,
        )
    return Registry(source, core.store, core.clock, core.enter)
