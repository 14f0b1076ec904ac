"""A pytest fixture for those who write steps: a whole broker that hands out stand-ins.

    from stepcred.testing import broker  # noqa: F401

    def test_load(broker):
        with broker.agent("spiffe://dev.local/workflow/nightly/step/load"):
            load.main()
        assert broker.minted == ["orders-db"]
        assert broker.alive == []

Needs `pip install "stepcred[testing]"`. Whose maps: `stepcred_scopes`, a fixture or an ini option
(with `pytest_plugins = ["stepcred.testing"]`); else `scopes/` beside the tests.
"""

from __future__ import annotations

try:
    import pytest  # noqa: F401 - without it nothing of this can be used
except ImportError as error:
    raise ImportError('stepcred.testing needs pytest: pip install "stepcred[testing]"') from error

from stepcred.testing._broker import Broker, Event, OrderRefused
from stepcred.testing._fixture import broker, pytest_addoption
from stepcred.testing._process import DevBrokerFailed

__all__ = ["Broker", "DevBrokerFailed", "Event", "OrderRefused", "broker", "pytest_addoption"]
