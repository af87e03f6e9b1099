from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import datagrams, needs_captures

from moonlight.audio import AudioCipher, AudioPacket, AudioPacketiser, AudioReceiver
from moonlight.errors import Malformed, ProtocolError
from moonlight.rtp import RtpHeader

KEY = bytes(range(16))


def opus(number: int) -> bytes:
    return number.to_bytes(2, "big") * 30


def received(receiver: AudioReceiver, packets: list[bytes]) -> list[AudioPacket]:
    return [packet for datagram in packets for packet in receiver.receive(datagram)]


def stream(count: int, cipher: AudioCipher | None = None) -> list[bytes]:
    packetiser = AudioPacketiser(cipher)
    return [datagram for n in range(count) for datagram in packetiser.packetise(opus(n))]


@pytest.mark.parametrize("cipher", [None, AudioCipher(KEY, -280119551)])
def test_packets_arrive_as_sent(cipher: AudioCipher | None) -> None:
    receiver = AudioReceiver(cipher)
    got = received(receiver, stream(21, cipher))
    assert got == [AudioPacket(n, opus(n), recovered=False) for n in range(21)]
    assert (receiver.lost_packets, receiver.undecipherable_packets) == (0, 0)


@settings(max_examples=60)
@given(st.data())
def test_two_losses_a_block_are_recovered_in_any_order(data: st.DataObject) -> None:
    sent = stream(16)
    kept: list[bytes] = []
    for at in range(0, 24, 6):
        lost = data.draw(st.sets(st.integers(int(at == 0), 5), max_size=2))
        order = data.draw(st.permutations([n for n in range(6) if n not in lost]))
        kept += [sent[at + n] for n in order]
    receiver = AudioReceiver(None)
    receiver.receive(sent[0])
    got = [0, *(packet.sequence for packet in received(receiver, kept))]
    assert got == list(range(max(got) + 1))
    assert receiver.lost_packets == 0
    assert not receiver._recovered or min(receiver._recovered) >= 13


def test_what_parity_gave_back_is_marked() -> None:
    sent = stream(4)
    got = received(AudioReceiver(None), [sent[0], sent[3], sent[4], sent[5]])
    assert [packet.recovered for packet in got] == [False, True, True, False]
    assert [packet.opus for packet in got] == [opus(n) for n in range(4)]


def test_a_gap_beyond_recovery_is_given_up_after_the_wait() -> None:
    sent = [packet for packet in stream(16) if packet[1] == 97]
    receiver = AudioReceiver(None, max_wait_packets=8)
    assert [p.sequence for p in received(receiver, [sent[0], *sent[2:9]])] == [0]
    assert [p.sequence for p in receiver.receive(sent[9])] == list(range(2, 10))
    assert receiver.lost_packets == 1
    assert receiver.receive(sent[1]) == []


def test_numbers_wrap_and_jumps_are_survived() -> None:
    packetiser = AudioPacketiser(None)
    packetiser._sequence, packetiser._timestamp = 0xFFFC, 0xFFFFFFFF
    sent = [datagram for n in range(8) for datagram in packetiser.packetise(opus(n))]
    assert RtpHeader.parse(sent[1]).timestamp == 4
    del sent[7]
    got = received(AudioReceiver(None), sent)
    assert [packet.sequence for packet in got] == [0xFFFC, 0xFFFD, 0xFFFE, 0xFFFF, 0, 1, 2, 3]
    receiver = AudioReceiver(None)
    packetiser = AudioPacketiser(None)
    receiver.receive(packetiser.packetise(opus(0))[0])
    packetiser._sequence = 30000
    assert receiver.receive(packetiser.packetise(opus(1))[0]) == []
    assert receiver.lost_packets == 29992


def test_the_iv_counts_with_the_sequence_and_wraps() -> None:
    sealed = [AudioCipher(KEY, -1).seal(sequence, opus(7)) for sequence in (0, 1, 2)]
    assert len(set(sealed)) == 3
    assert AudioCipher(KEY, 0).open(0, sealed[1]) == opus(7)
    assert AudioCipher(KEY, 0xFFFFFFFF).open(0, sealed[0]) == opus(7)


def test_unequal_packets_get_no_parity() -> None:
    packetiser = AudioPacketiser(None)
    assert [len(packetiser.packetise(bytes(n))) for n in (1, 2, 1, 1, 3, 3, 3, 3)] == [
        1, 1, 1, 1, 1, 1, 1, 3,
    ]  # fmt: skip


def test_a_block_of_unequal_packets_is_not_solved() -> None:
    sent = stream(4)
    assert len(received(AudioReceiver(None), [sent[0], sent[2] + b"x", *sent[3:]])) == 1


def test_parity_before_all_data_is_ignored_and_ahead_of_its_block_used() -> None:
    sent = stream(12)
    receiver = AudioReceiver(None)
    assert received(receiver, sent[4:6]) == []
    assert len(received(receiver, [*sent[:4], sent[16], sent[10], *sent[6:9]])) == 8
    assert list(receiver._shards) == []


def test_a_jump_of_thousands_of_numbers_is_lost_at_once() -> None:
    """One datagram could keep the receiver busy, were each lost number looked at by itself."""
    receiver = AudioReceiver(None)
    first, ahead = stream(1)[0], bytearray(stream(1)[0])
    ahead[2:4] = (20_000).to_bytes(2, "big")
    looked_at: list[int] = []
    payload = receiver._payload
    receiver._payload = lambda number: looked_at.append(number) or payload(number)  # type: ignore[func-returns-value]

    received(receiver, [first, bytes(ahead)])

    assert receiver.lost_packets > 19_900
    assert len(looked_at) < 100


def test_another_key_is_noticed() -> None:
    receiver = AudioReceiver(AudioCipher(bytes(16), 0))
    assert received(receiver, stream(8, AudioCipher(KEY, 0))) == []
    assert receiver.undecipherable_packets == 8
    with pytest.raises(Malformed, match="does not decrypt"):
        AudioCipher(KEY, 0).open(0, b"odd length")
    with pytest.raises(ValueError, match="16 bytes"):
        AudioCipher(b"short", 0)


def test_what_is_no_audio_is_refused() -> None:
    parity = stream(4)[4]
    for wrong in (b"", b"\x80\x60" + bytes(30), parity[:24], parity[:12] + b"\x02" + parity[13:]):
        with pytest.raises(Malformed):
            AudioReceiver(None).receive(wrong)
    with pytest.raises(Malformed):
        AudioReceiver(None).receive(parity[:15] + b"\x02" + parity[16:])


@given(st.lists(st.tuples(st.sampled_from([97, 127]), st.binary(max_size=40)), max_size=30))
def test_any_bytes_are_taken_or_a_protocol_error(tails: list[tuple[int, bytes]]) -> None:
    receiver = AudioReceiver(None)
    for kind, tail in tails:
        try:
            receiver.receive(bytes([0x80, kind]) + tail)
        except ProtocolError:
            continue
    assert len(receiver._shards) <= 10


@needs_captures
def test_the_recorded_stream_decrypts_and_is_written_the_same() -> None:
    recorded = [d.payload for d in datagrams() if d.source == 48200]
    cipher = AudioCipher(bytes.fromhex("b9c556d31ec9b6ed2695134b24b8086f"), -280119551)
    receiver = AudioReceiver(cipher)
    packets = received(receiver, recorded)
    assert [packet.sequence for packet in packets] == list(range(190))
    assert receiver.undecipherable_packets == 0
    # A wrong IV would spoil the first block only: Opus' table of contents stays what it is.
    assert len({packet.opus[0] for packet in packets}) == 1
    packetiser = AudioPacketiser(cipher)
    written = [d for packet in packets for d in packetiser.packetise(packet.opus)]
    # Only the ssrc, which hosts leave at zero, and Wolf's own numbering are at stake here.
    assert written == recorded
    thinned = [packet for at, packet in enumerate(recorded) if at % 6 not in (1, 3)]
    again = received(AudioReceiver(cipher), thinned)
    assert [packet.opus for packet in again] == [packet.opus for packet in packets[: len(again)]]
    assert sum(packet.recovered for packet in again) == 94
