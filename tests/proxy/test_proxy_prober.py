"""The edge asks an agent for probes, and knows them among what strangers send to its UDP ports."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from proxy_fakes import FakeTunnel

from agent.probing import UdpProbes
from moonlight.flows import Flow
from proxy import prober as prober_module
from proxy.losses import PortDrop
from proxy.media import Media
from proxy.prober import ProbeFailed, Prober
from revdial.errors import RequestFailed, TunnelClosed
from revdial.probes import probe_datagram

LOOPBACK = "127.0.0.1"
OnRequest = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


async def agents_probes(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Be a real agent that dials an edge on loopback."""
    assert method == "probe_udp"
    return await UdpProbes(f"ws://{LOOPBACK}").send(params)


async def test_open_ports_are_reached_and_a_closed_one_is_not(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, own_ports: range
) -> None:
    monkeypatch.setattr(prober_module, "arrival_timeout_s", 0.2)
    video, audio, control = own_ports[:3]
    prober = Prober({Flow.VIDEO: video, Flow.AUDIO: audio, Flow.CONTROL: control})
    media = Media(nursery, on_end=lambda *_: None, take_probe=prober.take)
    # Audio's is where nobody listens.
    await nursery.start(media.serve, [LOOPBACK], {Flow.VIDEO: video, Flow.CONTROL: control})

    probed = await prober.probe(FakeTunnel(nursery, on_request=agents_probes).as_tunnel())

    assert probed.reached == {Flow.VIDEO, Flow.CONTROL}
    assert probed.sent_to == LOOPBACK
    assert not media.refused


async def test_all_ports_open_means_no_waiting(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, own_ports: range
) -> None:
    monkeypatch.setattr(prober_module, "arrival_timeout_s", 3600.0)
    ports = dict(zip(Flow, own_ports, strict=False))
    prober = Prober(ports)
    media = Media(nursery, on_end=lambda *_: None, take_probe=prober.take)
    await nursery.start(media.serve, [LOOPBACK], ports)
    with trio.fail_after(5):
        probed = await prober.probe(FakeTunnel(nursery, on_request=agents_probes).as_tunnel())
    assert probed.reached == set(Flow)


async def test_a_probe_at_anothers_port_says_nothing_of_the_right_one(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    prober = Prober({Flow.VIDEO: 1})

    async def forwarded_wrongly(method: str, params: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        assert prober.take(Flow.AUDIO, bytes.fromhex(params["nonce"]))
        assert not prober.take(48074, bytes.fromhex(params["nonce"]))
        return {"host": "h", "sent": 3}

    tunnel = FakeTunnel(nursery, on_request=forwarded_wrongly).as_tunnel()
    assert Flow.VIDEO not in (await prober.probe(tunnel)).reached


async def test_probes_that_nobody_asked_for_are_dropped_and_counted(
    nursery: trio.Nursery, own_ports: range
) -> None:
    port = own_ports[0]
    prober = Prober({Flow.VIDEO: port})
    media = Media(nursery, on_end=lambda *_: None, take_probe=prober.take)
    await nursery.start(media.serve, [LOOPBACK], {Flow.VIDEO: port})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.connect((LOOPBACK, port))
        stranger.send(probe_datagram(bytes(16)))
        with trio.fail_after(5):
            while not media.refused:
                await trio.lowlevel.checkpoint()
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.recv(100)
    assert media.refused == {("video", PortDrop.UNKNOWN_PROBE): 1}


async def test_a_guessed_nonce_is_not_taken(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    prober = Prober({Flow.VIDEO: 1})

    async def guess(method: str, params: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        assert not prober.take(Flow.VIDEO, bytes(16))
        return {"host": "h", "sent": 3}

    probed = await prober.probe(FakeTunnel(nursery, on_request=guess).as_tunnel())
    assert not probed.reached


async def test_one_probe_at_a_time_and_not_soon_after_it(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    prober = Prober({Flow.VIDEO: 1})

    async def slow(method: str, params: dict[str, Any]) -> dict[str, Any]:
        await trio.sleep(5)
        return {"host": "h", "sent": 3}

    tunnel = FakeTunnel(nursery, on_request=slow).as_tunnel()
    nursery.start_soon(prober.probe, tunnel)
    await trio.testing.wait_all_tasks_blocked()
    other = FakeTunnel(nursery, "agent-2", on_request=slow).as_tunnel()
    for asked, wait_s in ((tunnel, 12), (other, 7.5)):
        with pytest.raises(ProbeFailed) as caught:
            await prober.probe(asked)
        assert (caught.value.reason, caught.value.retry_after_s) == ("probe_too_soon", wait_s)
    await trio.sleep(7)
    await prober.probe(other)
    with pytest.raises(ProbeFailed):
        await prober.probe(other)
    await prober.probe(tunnel)


@pytest.mark.parametrize(
    ("error", "reason", "said"),
    [
        (RequestFailed("unknown_method", "no"), "agent_too_old", "update moonhost there"),
        (RequestFailed("edge_not_resolved", "the name is unknown"), "edge_not_resolved", "name"),
        (TunnelClosed(), "tunnel_closed", "did not send probes"),
    ],
)
async def test_why_there_was_no_probe_is_told(
    nursery: trio.Nursery, error: Exception, reason: str, said: str
) -> None:
    async def fail(method: str, params: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        raise error

    with pytest.raises(ProbeFailed, match=said) as caught:
        await Prober({Flow.VIDEO: 1}).probe(FakeTunnel(nursery, on_request=fail).as_tunnel())
    assert caught.value.reason == reason
    assert caught.value.retry_after_s is None


async def test_an_answer_that_is_none_is_told(nursery: trio.Nursery) -> None:
    async def nonsense(method: str, params: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"host": ["h"]}

    with pytest.raises(ProbeFailed, match="not one to a probe"):
        await Prober({Flow.VIDEO: 1}).probe(FakeTunnel(nursery, on_request=nonsense).as_tunnel())
