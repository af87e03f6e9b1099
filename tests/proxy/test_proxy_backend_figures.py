from __future__ import annotations

import pytest

from backends.model import BackendId
from moonlight.errors import Malformed
from proxy.backend_figures import BackendFigures, ConnectionFailure, failure_of
from proxy.errors import EdgeError, HostIdentityChanged, HostUnavailable
from revdial.errors import DialRefused, PickupTimeout, TunnelClosed, TunnelError

ONE = BackendId("agent/one")


def caused(error: EdgeError, cause: BaseException | None) -> EdgeError:
    error.__cause__ = cause
    return error


def broken_by(cause: BaseException) -> OSError:
    error = OSError("broken")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (HostUnavailable("agent_offline", ""), ConnectionFailure.NO_AGENT),
        (TunnelClosed("tunnel_closed", ""), ConnectionFailure.NO_AGENT),
        (DialRefused("host_unreachable", ""), ConnectionFailure.REFUSED),
        (
            caused(HostUnavailable("x", ""), broken_by(DialRefused("host_unreachable", ""))),
            ConnectionFailure.REFUSED,
        ),
        (PickupTimeout("pickup_timeout", ""), ConnectionFailure.TIMEOUT),
        (HostUnavailable("host_timeout", ""), ConnectionFailure.TIMEOUT),
        (
            caused(HostUnavailable("bad_xml", ""), Malformed("bad_xml", "")),
            ConnectionFailure.INVALID_ANSWER,
        ),
        (HostIdentityChanged("host_identity_changed", ""), ConnectionFailure.IDENTITY_CHANGED),
        (HostUnavailable("host_connection_lost", ""), ConnectionFailure.BROKEN),
    ],
)
def test_a_failed_connection_is_counted_for_what_it_was(
    error: EdgeError | TunnelError, failure: ConnectionFailure
) -> None:
    assert failure_of(error) is failure


def test_figures_outlive_an_agents_tunnels_and_not_its_backends() -> None:
    figures = BackendFigures()
    figures.connected("agent")
    figures.tunnel_ended("agent", warm_dials=3, cold_dials=1)
    figures.connected("agent")
    figures.failed(ONE, ConnectionFailure.BROKEN)
    assert (figures.agent("agent").reconnects, figures.agent("agent").warm_dials) == (1, 3)
    assert figures.failures(ONE) == {ConnectionFailure.BROKEN: 1}

    figures.forget(ONE, connected=True)
    assert figures.failures(ONE) == {}
    assert figures.agent("agent").connects == 2
    figures.forget(ONE, connected=False)
    assert (figures.agent("agent").connects, figures.agent("agent").reconnects) == (0, 0)
