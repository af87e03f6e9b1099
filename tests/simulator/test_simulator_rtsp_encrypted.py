"""Encrypted RTSP of a simulated host and of the light client, on real sockets."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from simulator_client import RIKEY, Player, StartHost
from test_simulator_light_client import paired, until, wish

from moonlight.launch import RtspUrl
from moonlight.rtsp import RtspRequest, RtspResponse, parse_response
from moonlight.rtsp_encryption import EncryptedRtsp, SealedReader, seal
from simulator import light_rtsp
from simulator.config import Traps
from simulator.light_errors import ClientFailed
from simulator.light_http import Target
from simulator.light_rtsp import Handshake, shake_hands

INSISTS = Traps(encrypted_rtsp=True)
OPTIONS = RtspRequest("OPTIONS", "rtsp://0.0.0.0", headers=(("CSeq", "1"),)).encode()
URL = RtspUrl(True, "host", 48011)


def opened(answer: bytes, client: EncryptedRtsp) -> RtspResponse:
    reader = SealedReader()
    reader.receive(answer)
    message = reader.next()
    assert message is not None
    return parse_response(client.unseal(message))


async def launched(start_host: StartHost) -> Player:
    player = Player(await start_host(INSISTS))
    await player.pair()
    assert (await player.launched()).encrypted
    return player


async def test_messages_go_sealed_on_connections_of_their_own(start_host: StartHost) -> None:
    player, client = await launched(start_host), EncryptedRtsp(RIKEY, "client")
    for _ in range(2):
        sealed = client.seal(OPTIONS)
        answer = await player.rtsp_bytes(sealed[:5], sealed[5:30], sealed[30:])
        assert opened(answer, client).status == 200


async def test_a_replay_and_a_wrong_tag_are_refused(start_host: StartHost) -> None:
    player, client = await launched(start_host), EncryptedRtsp(RIKEY, "client")
    first = client.seal(OPTIONS)
    bent = bytearray(first)
    bent[10] ^= 1
    for refused in (bytes(bent), seal(bytes(16), "client", 1, OPTIONS)):
        assert (await player.rtsp_bytes(refused)).startswith(b"RTSP/1.0 400 ")
    assert opened(await player.rtsp_bytes(first), client).status == 200
    assert (await player.rtsp_bytes(first)).startswith(b"RTSP/1.0 400 ")
    assert opened(await player.rtsp_bytes(client.seal(OPTIONS)), client).status == 200


async def test_plain_text_is_refused_under_the_hosts_seal(start_host: StartHost) -> None:
    player, client = await launched(start_host), EncryptedRtsp(RIKEY, "client")
    assert opened(await player.rtsp_bytes(OPTIONS), client).status == 400


async def test_a_resume_begins_to_count_anew(start_host: StartHost) -> None:
    player = await launched(start_host)
    for path in ("/resume", "/launch"):
        sealed = EncryptedRtsp(RIKEY, "client").seal(OPTIONS)
        await player.rtsp_bytes(sealed)
        assert (await player.launched(path)).encrypted
        client = EncryptedRtsp(RIKEY, "client")
        assert opened(await player.rtsp_bytes(client.seal(OPTIONS)), client).status == 200


@pytest.mark.parametrize(
    ("traps", "corever", "sealed"),
    [(INSISTS, 1, True), (INSISTS, 0, False), (Traps.none(), 1, False)],
    ids=["both", "client cannot", "host does not"],
)
async def test_the_light_client_seals_where_it_offered_it_and_the_host_wants_it(
    start_host: StartHost,
    monkeypatch: pytest.MonkeyPatch,
    traps: Traps,
    corever: int,
    sealed: bool,
) -> None:
    used: list[bool] = []
    exchange = light_rtsp._exchange

    async def noting(
        target: Target, port: int, request: RtspRequest, sealing: EncryptedRtsp | None
    ) -> RtspResponse:
        used.append(sealing is not None)
        return await exchange(target, port, request, sealing)

    monkeypatch.setattr(light_rtsp, "_exchange", noting)
    client = await paired(await start_host(traps, picture="noise"))
    async with client.playing(wish(corever=corever)) as playing:
        await until(lambda: playing.figures().frames_whole >= 3)
    assert used == [sealed] * 7


async def test_a_host_that_seals_unasked_is_refused_in_words() -> None:
    with pytest.raises(ClientFailed, match="encrypted RTSP"):
        await shake_hands(
            Target("127.0.0.1", 1),
            URL,
            Handshake(URL, wish().settings()),
            sealing=None,
            other_ports=(),
            on_terms=lambda *_: None,
        )


def ok(cseq: int = 1) -> bytes:
    return RtspResponse(200, "OK", headers=(("CSeq", str(cseq)),)).encode()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (ok(), "rtsp_not_sealed"),
        (seal(RIKEY, "host", 1, ok()) + b"\r\n", "rtsp_excess"),
        (seal(RIKEY, "host", 1, ok())[:-1], "rtsp_truncated"),
        (seal(bytes(16), "host", 1, ok()), "rtsp_tag"),
        (seal(RIKEY, "host", 1, ok(2)), "rtsp_cseq"),
        (seal(RIKEY, "host", 1, ok(1)[:-2]), "rtsp_truncated"),
        (b"", "rtsp_no_answer"),
        (b"\xff" * 70_000, "rtsp_message"),
    ],
    ids=["plain", "excess", "cut", "key", "another's", "cut inside", "nothing", "endless"],
)
async def test_the_light_client_takes_what_moonlight_takes(
    nursery: trio.Nursery, said: bytes, reason: str
) -> None:
    connections = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        if connections > 1:  # the first one tests the port
            await stream.receive_some()
            with suppress(trio.BrokenResourceError):  # the client has had enough
                await stream.send_all(said)
                await stream.send_eof()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve, [listener])
    port = listener.socket.getsockname()[1]
    url = RtspUrl(True, "host", port)
    with pytest.raises(ClientFailed) as failed:
        await shake_hands(
            Target("127.0.0.1", 1),
            url,
            Handshake(url, wish().settings()),
            sealing=EncryptedRtsp(RIKEY, "client"),
            other_ports=(),
            on_terms=lambda *_: None,
        )
    assert failed.value.reason == f"rtsp_options_{reason}"


def test_rtsp_names_the_encrypted_url_at_high_bitrates_only() -> None:
    for kbps, target in ((14_999, "rtsp://0.0.0.0:48011"), (15_000, "rtspenc://host:48011")):
        request = Handshake(URL, wish(kbps).settings()).next_request()
        assert request is not None
        assert request.target == target
