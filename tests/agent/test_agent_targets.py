"""The agent dials what is on its list, and nothing else."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import HostConfig
from agent.targets import target_of
from revdial.errors import DialRefused
from revdial.messages import Dial, Service, StreamService

WOLF = HostConfig.model_validate(
    {"name": "wolf", "address": "127.0.0.11", "udp_ports": "47998-48010,48100"}
)
HOSTS = {"wolf": WOLF}


def stream(service: StreamService, port: int | None = None, host: str = "wolf") -> Dial:
    return Dial(id="id", kind="stream", host=host, service=service, port=port)


def flow(port: int | None = 47998, kind: str | None = "video", session: str | None = "s") -> Dial:
    return Dial(
        id="id", kind="flow", host="wolf", service="udp", port=port, flow=kind, session=session
    )


@pytest.mark.parametrize(
    ("dial", "port"),
    [
        (stream("http"), 47989),
        (stream("https"), 47984),
        (stream("rtsp"), 48010),
        (stream("rtsp", 48010), 48010),
        (flow(47998), 47998),
        (flow(48010, "audio"), 48010),
        (flow(48100, "control"), 48100),
    ],
)
def test_what_is_on_the_list(dial: Dial, port: int) -> None:
    target = target_of(dial, HOSTS)
    assert (target.address, target.port) == ("127.0.0.11", port)


@pytest.mark.parametrize(
    ("dial", "reason"),
    [
        (stream("http", host="other"), "unknown_host"),
        (stream("http", 22), "port_not_allowed"),
        (stream("https", 47989), "port_not_allowed"),
        (Dial(id="id", kind="stream", host="wolf", service="udp", port=47998), "bad_dial"),
        (Dial(id="id", kind="flow", host="wolf", service="http", flow="video"), "bad_dial"),
        (flow(session=None), "bad_dial"),
        (flow(session=""), "bad_dial"),
        (flow(kind=None), "bad_dial"),
        (flow(kind="input"), "bad_dial"),
        (flow(None), "port_not_allowed"),
        (flow(53), "port_not_allowed"),
        (flow(48011), "port_not_allowed"),
    ],
)
def test_what_is_not(dial: Dial, reason: str) -> None:
    with pytest.raises(DialRefused) as caught:
        target_of(dial, HOSTS)
    assert caught.value.reason == reason


@given(
    st.builds(
        Dial,
        id=st.just("id"),
        kind=st.sampled_from(["stream", "flow"]),
        host=st.sampled_from(["wolf", "other", "127.0.0.1"]),
        service=st.sampled_from(get_args(Service)),
        port=st.none() | st.sampled_from([22, 47984, 47989, 47998, 48010, 48011]),
        flow=st.none() | st.sampled_from(["video", "audio", "control", "other"]),
        session=st.none() | st.sampled_from(["", "s"]),
    )
)
def test_nothing_beyond_the_list_is_ever_dialled(dial: Dial) -> None:
    try:
        target = target_of(dial, HOSTS)
    except DialRefused:
        return
    assert target.address == "127.0.0.11"
    if dial.kind == "stream":
        assert target.port in {47984, 47989, 48010}
    else:
        assert target.port in {*range(47998, 48011), 48100}
