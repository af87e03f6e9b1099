"""The light client plays on simulated hosts, on real sockets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
from simulator_client import DEADLINE_S, PIN, StartHost, identity, until

from moonlight.announce import Encryption, HostCapabilities
from moonlight.applist import App
from moonlight.flows import Flow
from moonlight.launch import RtspUrl
from moonlight.rtsp import RtspRequest, RtspResponse
from moonlight.xml import HostRefused
from simulator import light_client, light_rtsp
from simulator.config import Traps
from simulator.host import HostHandle
from simulator.light_client import LightClient, Playing, StreamWish, parse_mode
from simulator.light_errors import ClientFailed
from simulator.light_http import LaunchWish, Target
from simulator.light_rtsp import Handshake
from simulator.light_udp import LightSocket
from simulator.ownership import Whose

WOLF, OLD, NONE = Traps.wolf_2026(), Traps.wolf_2024(), Traps.none()
URL = RtspUrl(False, "203.0.113.7", 48010)


def client_of(
    host: HostHandle, name: str = "light", source: str | None = "127.0.0.1"
) -> LightClient:
    return LightClient(Target(host.address, host.http_port, source), identity(name))


def confirming(host: HostHandle, told: str | None = None) -> Callable[[str], Awaitable[None]]:
    """Tell the host the PIN, or another one."""

    async def confirm(pin: str) -> None:
        await until(lambda: bool(host.pending_pairings()))
        for pending in host.pending_pairings():
            host.confirm_pin(pending.secret, told or pin)

    return confirm


async def paired(host: HostHandle, name: str = "light") -> LightClient:
    client = client_of(host, name)
    await client.pair(confirming(host))
    return client


def wish(
    kbps: int = 2000, app: int = 378473508, mode: str = "320x200x60", corever: int = 1
) -> StreamWish:
    return StreamWish(app_id=app, mode=mode, bitrate_kbps=kbps, corever=corever)


def whose(playing: Playing) -> tuple[Whose, Whose, Whose]:
    ownership = playing.figures().ownership
    return ownership.video, ownership.audio, ownership.control


@pytest.mark.parametrize("traps", [WOLF, OLD, NONE], ids=["wolf", "2024", "none"])
@pytest.mark.parametrize("kbps", [2_000, 16_000])
async def test_plays_leaves_and_cancels(start_host: StartHost, traps: Traps, kbps: int) -> None:
    host = await start_host(traps, picture="noise")
    client = await paired(host)

    assert "Test ball" in {app.title for app in await client.apps()}
    async with client.playing(wish(kbps)) as playing:
        playing.begin()
        await until(lambda: playing.figures().frames_whole >= 10)
        await until(lambda: playing.figures().audio_packets >= 10)
        await until(lambda: len(playing.figures().control_round_trips_ms) >= 2)
        figures = playing.figures()

    assert 0 < figures.launch_ms < figures.first_frame_ms < DEADLINE_S * 1000
    assert figures.video_datagrams > figures.frames_whole
    assert (figures.frames_foreign, figures.audio_foreign) == (0, 0)
    assert (figures.frames_lost, figures.video_datagrams_lost, figures.socket_drops) == (0, 0, 0)
    assert max(figures.control_round_trips_ms) < DEADLINE_S * 1000
    assert host.sessions() == ()
    assert (host.counters.control_invalid, host.counters.pings_unmatched) == (0, 0)


async def test_plays_a_picture_that_is_no_noise(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    client = await paired(host)
    async with client.playing(wish()) as playing:
        await until(lambda: playing.figures().frames_whole >= 3)
        await until(lambda: Whose.NOTHING not in whose(playing))
        assert whose(playing) == (Whose.UNNAMED, Whose.OWN, Whose.UNNAMED)


async def test_clients_of_one_address_play_at_once_where_rtsp_names_them(
    start_host: StartHost,
) -> None:
    host = await start_host(WOLF, picture="noise")
    alice, bob = await paired(host, "alice"), await paired(host, "bob")
    async with alice.playing(wish(16_000)) as hers, bob.playing(wish(16_000)) as his:
        await until(lambda: hers.figures().frames_whole > 5 and his.figures().audio_packets > 5)
        for playing in (hers, his):
            await until(lambda playing=playing: set(whose(playing)) == {Whose.OWN})


async def test_picture_and_sound_of_another_session_are_noticed(start_host: StartHost) -> None:
    """Wolf takes the first session of an address where RTSP says 0.0.0.0."""
    host = await start_host(WOLF, picture="noise")
    alice, bob = await paired(host, "alice"), await paired(host, "bob")
    async with alice.playing(wish(16_000)), bob.playing(wish(2_000)) as his:
        await until(lambda: set(whose(his)) == {Whose.FOREIGN})
        figures = his.figures()
        assert figures.frames_foreign > 0
        assert figures.audio_foreign > 0
        assert figures.control_foreign > 0
        assert figures.ownership.mixed_up


async def test_an_app_that_was_left_or_never_played_is_gone_on_with(start_host: StartHost) -> None:
    host = await start_host(WOLF, picture="noise")
    client = await paired(host)

    await client.abandon(wish())
    (launched,) = host.sessions()
    async with client.playing(wish(), resume=True, quit_app=False):
        pass
    async with client.playing(wish(), resume=True) as playing:
        await until(lambda: set(whose(playing)) == {Whose.OWN})
        assert [session.id for session in host.sessions()] == [launched.id]

    assert host.sessions() == ()


async def test_an_abandoned_app_can_be_ended(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    client = await paired(host)
    await client.abandon(wish())
    await client.cancel()
    assert host.sessions() == ()


async def test_a_host_sends_no_more_than_it_may(start_host: StartHost) -> None:
    host = await start_host(WOLF, picture="noise", max_bitrate_kbps=1_000)
    client = await paired(host)
    async with client.playing(wish(20_000)) as playing:
        playing.begin()
        await until(lambda: playing.figures().frames_whole >= 10)
        figures = playing.figures()
    # 1667 bytes a frame and two parity packets: 4 datagrams; 20 Mbit/s would be some 40.
    assert figures.video_datagrams <= 5 * (figures.frames_whole + 2)


async def test_a_slow_host_sends_less_and_all_of_it_is_own(start_host: StartHost) -> None:
    host = await start_host(WOLF, picture="noise", slowdown=20)
    client = await paired(host)
    async with client.playing(wish()) as playing:
        await until(lambda: set(whose(playing)) == {Whose.OWN})
        await until(lambda: playing.figures().frames_whole >= 3)  # 3 a second, of 60
        assert playing.figures().audio_packets < 60
    assert host.counters.frames_skipped == host.counters.audio_skipped == 0


@pytest.mark.parametrize("able", [True, False])
async def test_a_host_that_encrypts_video_is_played_encrypted_where_the_client_can(
    start_host: StartHost, able: bool
) -> None:
    host = await start_host(replace(NONE, encrypts_video=True), picture="noise")
    client = await paired(host)
    async with client.playing(replace(wish(), encrypts_video=able)) as playing:
        await until(lambda: playing.figures().frames_whole >= 5)
        figures = playing.figures()
    assert (figures.video_encrypted, figures.video_undecryptable) == (able, 0)
    assert figures.frames_foreign == 0


async def test_a_lost_frame_brings_a_new_idr_frame(
    start_host: StartHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await start_host(WOLF, picture="noise")
    client = await paired(host)
    lossy: set[int] = set()

    class Lossy(LightSocket):
        def drain(self) -> list[bytes]:
            datagrams = super().drain()
            if id(self) in lossy and datagrams:
                lossy.remove(id(self))
                return []
            return datagrams

    monkeypatch.setattr(light_client, "LightSocket", Lossy)
    async with client.playing(wish()) as playing:
        before = host.counters.idr_frames
        playing.begin()
        lossy.add(id(playing._sockets[Flow.VIDEO]))
        await until(lambda: host.counters.idr_frames > before)
        figures = playing.figures()
    assert figures.frames_lost > 0
    assert figures.video_datagrams_lost > 0


async def test_a_client_that_is_cancelled_leaves_and_cancels(start_host: StartHost) -> None:
    host = await start_host(WOLF, picture="noise")
    client = await paired(host)
    with trio.CancelScope() as scope:
        async with client.playing(wish()):
            assert len(host.sessions()) == 1
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert host.sessions() == ()


async def test_a_session_that_the_host_ends_is_told(start_host: StartHost) -> None:
    host = await start_host(WOLF, picture="noise")
    client = await paired(host)

    async def play() -> None:
        async with client.playing(wish()):
            host.end_session(host.sessions()[0].id)
            await trio.sleep_forever()

    with pytest.raises(ClientFailed) as failed:
        await play()
    assert failed.value.reason == "ended_by_host"


async def test_a_wrong_pin_is_told_and_leaves_nothing(start_host: StartHost) -> None:
    host = await start_host(NONE)
    client = client_of(host)
    with pytest.raises(ClientFailed) as failed:
        await client.pair(confirming(host, told="12345"))
    assert failed.value.reason == "pairing_wrong_pin"
    assert PIN not in str(failed.value)
    assert not host.clients


async def test_a_pin_that_cannot_be_told_ends_the_pairing(start_host: StartHost) -> None:
    client = client_of(await start_host(NONE))

    async def cannot(_: str) -> None:
        raise ClientFailed("nobody_there", "Nobody is there.")

    with pytest.raises(ClientFailed) as failed:
        await client.pair(cannot)
    assert failed.value.reason == "nobody_there"


async def test_who_is_not_paired_cannot_play(start_host: StartHost) -> None:
    client = client_of(await start_host(NONE))
    with pytest.raises(ClientFailed) as failed:
        await client.apps()
    assert failed.value.reason == "not_paired"


async def test_an_app_that_is_not_there_is_refused(start_host: StartHost) -> None:
    host = await start_host(NONE, apps=(App("Snow", 12),))
    client = await paired(host)
    with pytest.raises(ClientFailed, match="There is no such app") as failed:
        async with client.playing(wish(app=13)):
            raise AssertionError("nothing plays")
    assert failed.value.reason == "launch_host_refused"


async def test_a_host_that_is_not_there_is_told(start_host: StartHost) -> None:
    host = await start_host(NONE)
    host.crash()
    client = client_of(host)
    with pytest.raises(ClientFailed) as failed:
        await client.pair(confirming(host))
    assert failed.value.reason == "serverinfo_connection"


async def test_a_host_that_shows_another_certificate_is_not_talked_to(
    start_host: StartHost,
) -> None:
    host = await start_host(NONE)
    client = await paired(host)
    client._http._server = identity("impostor").certificate
    client._http._pinned = None
    with pytest.raises(ClientFailed) as failed:
        await client.apps()
    assert failed.value.reason == "serverinfo_connection"


async def test_no_secret_is_in_what_may_be_shown() -> None:
    launch = LaunchWish(app_id=1, mode="1280x720x60", rikey=b"k" * 16, rikeyid=5)
    assert (b"k" * 16).hex() in launch.query().encode()
    shown = repr(launch) + repr(launch.query()) + repr(handshake_terms()[Flow.AUDIO])
    for secret in ("kkkk", (b"k" * 4).hex(), "payload of sixty", "4711"):
        assert secret not in shown


def answer(request: RtspRequest) -> RtspResponse:
    """What a host answers, with everything that a client may read."""
    session = ("Session", "DEADBEEFCAFE;timeout = 90")
    if request.method == "DESCRIBE":
        return request.answer(body=b"a=x-ss-general.encryptionSupported: 5\r\n")
    if request.method != "SETUP":
        return request.answer()
    port = {Flow.AUDIO: 48000, Flow.VIDEO: 47998, Flow.CONTROL: 47999}[request.stream or Flow.VIDEO]
    told = request.answer(session, ("Transport", f"server_port={port}"))
    if request.stream is Flow.CONTROL:
        return told.with_connect_data(4711)
    return told.with_ping_payload("payload of sixty")


def messages(handshake: Handshake) -> list[RtspRequest]:
    sent = []
    while (request := handshake.next_request()) is not None:
        sent.append(request)
        handshake.receive(request, answer(request))
    return sent


def handshake_terms(kbps: int = 20_000) -> dict[Flow, light_rtsp.FlowTerms]:
    handshake = Handshake(URL, wish(kbps).settings())
    messages(handshake)
    return handshake.terms


def test_rtsp_is_asked_as_moonlight_asks_it() -> None:
    sent = messages(Handshake(URL, wish(10_000).settings()))

    assert [(request.method, request.target, request.cseq) for request in sent] == [
        ("OPTIONS", "rtsp://0.0.0.0:48010", 1),
        ("DESCRIBE", "rtsp://0.0.0.0:48010", 2),
        ("SETUP", "streamid=audio/0/0", 3),
        ("SETUP", "streamid=video/0/0", 4),
        ("SETUP", "streamid=control/13/0", 5),
        ("ANNOUNCE", "streamid=control/13/0", 6),
        ("PLAY", "/", 7),
    ]
    assert {request.header("X-GS-ClientVersion") for request in sent} == {"14"}
    assert {request.header("Host") for request in sent} == {"0.0.0.0"}
    assert [request.header("Session") for request in sent] == [None] * 3 + ["DEADBEEFCAFE"] * 4
    assert sent[3].encode() == (
        b"SETUP streamid=video/0/0 RTSP/1.0\r\nCSeq: 4\r\nX-GS-ClientVersion: 14\r\n"
        b"Host: 0.0.0.0\r\nSession: DEADBEEFCAFE\r\n"
        b"Transport: unicast;X-GS-ClientPort=50000-50001\r\n"
        b"If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n"
    )
    assert sent[5].header("Content-length") == str(len(sent[5].body))


def test_from_15_mbits_on_rtsp_names_the_host_of_its_url() -> None:
    for kbps, host in ((14_999, "0.0.0.0"), (15_000, "203.0.113.7")):
        sent = messages(Handshake(URL, wish(kbps).settings()))
        assert {request.session_host for request in sent[:2]} == {host}
        assert {request.header("Host") for request in sent} == {host}


def test_setup_tells_ports_and_secrets_and_control_is_encrypted_as_the_host_can() -> None:
    handshake = Handshake(URL, wish().settings())
    announced = messages(handshake)[5].body
    assert handshake.terms[Flow.VIDEO] == light_rtsp.FlowTerms(47998, "payload of sixty", None)
    assert handshake.terms[Flow.CONTROL] == light_rtsp.FlowTerms(47999, None, 4711)
    assert b"encryptionEnabled:1 " in announced


@pytest.mark.parametrize(
    "flags", [HostCapabilities(encryption_supported=7), HostCapabilities(encryption_requested=2)]
)
def test_video_is_encrypted_where_that_is_offered_and_packets_leave_room_for_it(
    flags: HostCapabilities,
) -> None:
    for able, on in ((True, Encryption.VIDEO.value), (False, 0)):
        handshake = Handshake(URL, wish().settings(), encrypts_video=able)
        for _ in range(2):
            request = handshake.next_request()
            assert request is not None
            handshake.receive(request, request.answer(body=flags.encode()))
        enabled = handshake.settings.encryption_enabled
        assert enabled & Encryption.VIDEO.value == on
        assert handshake.settings.packet_size == wish().packet_size - 16 * on


def test_a_refusal_and_an_answer_to_something_else_are_errors() -> None:
    handshake = Handshake(URL, wish().settings())
    request = handshake.next_request()
    assert request is not None
    with pytest.raises(HostRefused):
        handshake.receive(request, request.answer(status=454, reason="Session Not Found"))
    with pytest.raises(light_rtsp.Malformed):
        handshake.receive(request, RtspResponse(200, "OK", headers=(("CSeq", "9"),)))


@pytest.mark.parametrize("mode", ["", "big", "1280x720", "1280x720x0", "01280x720x60"])
def test_a_mode_is_width_height_and_rate(mode: str) -> None:
    with pytest.raises(ValueError, match="WIDTHxHEIGHTxFPS"):
        StreamWish(app_id=1, mode=mode, bitrate_kbps=1)
    assert parse_mode("1280x720x60") == (1280, 720, 60)
