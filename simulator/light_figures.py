"""What the light client measures of one session, without I/O: counts, gaps, round trips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from moonlight import enet
from moonlight.audio import AudioCipher
from moonlight.enet import Acknowledge
from moonlight.errors import Malformed, ProtocolError
from moonlight.rtp import AUDIO_PAYLOAD_TYPE, RTP_HEADER_BYTES, FrameKind
from moonlight.video import AssembledFrame, FrameAssembler
from moonlight.video_encryption import VideoOpener
from simulator.noise import noise_stamp
from simulator.ownership import Ownership, StampedDatagrams, Whose, stamp_of

MAX_USELESS_FRAMES: Final = 120
"""So many frames are waited for an IDR frame before it is asked for again."""
_SEQUENCES: Final = 1 << 16
_MAX_AWAITED: Final = 1024
_MAX_ROUND_TRIPS: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFigures:
    """One session, from `Playing.begin` to the moment these figures were taken.

    The first two are of its start, and counted in milliseconds from the launch request: to the
    launch's answer, and to the first whole frame. What is foreign counts from the launch on.
    """

    launch_ms: float
    first_frame_ms: float
    frames_whole: int
    frames_lost: int
    """Frames between whole ones that never became whole."""
    frames_foreign: int
    """Noise frames of another session: never, unless somebody mixes sessions up."""
    video_foreign: int
    """Video datagrams of another session."""
    packets_recovered: int
    """Data packets that did not come, and that parity gave back."""
    video_datagrams: int
    video_datagrams_lost: int
    video_encrypted: bool = False
    """Whether the client enabled it, so that it takes no video in the clear."""
    video_undecryptable: int = 0
    """Video datagrams that do not decrypt under this session's key."""
    audio_packets: int
    audio_packets_lost: int
    audio_foreign: int
    """Audio packets that do not decrypt under this session's key, or are another session's."""
    control_foreign: int
    """Control messages that another session's key has sealed."""
    socket_drops: int
    """Datagrams that reached this client, and that it was too slow to take."""
    control_round_trips_ms: tuple[float, ...] = field(repr=False)
    ownership: Ownership
    """Whose all was that came since the launch."""


class SequenceLoss:
    """How many datagrams of one RTP stream have not come, by their numbers (as RFC 3550 counts)."""

    def __init__(self) -> None:
        self.received = 0
        self._first: int | None = None
        self._highest = 0

    @property
    def lost(self) -> int:
        """Numbers passed over until now. What comes twice can hide a loss, as in RFC 3550."""
        if self._first is None:
            return 0
        return max(0, self._highest + 1 - self._first - self.received)

    def note(self, sequence: int) -> None:
        """Count a datagram; its number has 16 bits and wraps."""
        if self._first is None:
            self._first = self._highest = sequence
        number = self._highest + (sequence - self._highest + _SEQUENCES // 2) % _SEQUENCES
        number -= _SEQUENCES // 2
        if number > self._highest:
            self._highest = number
        if number >= self._first:
            self.received += 1

    def begin(self) -> None:
        """Count anew from the next number on."""
        if self._first is not None:
            self._first = self._highest + 1
        self.received = 0


class VideoMeter:
    """Puts frames together and counts them; knows when a decoder would need an IDR frame.

    As in Moonlight, a lost frame makes it wait for one, and until that has come it asks again only
    after many frames.
    """

    def __init__(self, stamp: int) -> None:
        self._stamp = stamp_of(stamp)
        self._datagrams = StampedDatagrams(self._stamp)
        self._assembler = FrameAssembler()
        self._lost_before = 0
        self._useless_frames: int | None = 0
        """Frames since one was lost that cannot be decoded; None while all is well."""
        self.loss = SequenceLoss()
        self.whole = 0
        self.foreign = 0
        """Frames of another session. Like all that is foreign, they are not forgiven by `begin`."""
        self._own = 0
        self._unnamed = 0
        self.recovered = 0
        self.undecryptable = 0
        """Where video comes encrypted: what was not under our own key."""
        self.opener: VideoOpener | None = None
        """Set where video comes encrypted: then nothing else is taken."""
        self.begun = False
        """Whether an IDR frame has come: before that, nothing can be shown."""

    @property
    def lost(self) -> int:
        """Frames lost since `begin`."""
        return self._assembler.lost_frames - self._lost_before

    @property
    def foreign_datagrams(self) -> int:
        """Datagrams of another session."""
        return self._datagrams.foreign

    @property
    def whose(self) -> Whose:
        """Whose the picture was, down to the last datagram."""
        foreign = self.foreign + self.foreign_datagrams + self.undecryptable
        return Whose.judge(own=self._own, foreign=foreign, unnamed=self._unnamed)

    def receive(self, datagrams: Iterable[bytes]) -> bool:
        """Take datagrams; tells whether an IDR frame should be asked for now."""
        wanted = False
        for datagram in self._opened(datagrams):
            if len(datagram) < RTP_HEADER_BYTES:
                continue
            self.loss.note(datagram[2] << 8 | datagram[3])
            self._datagrams.note(datagram)
            lost_frames = self._assembler.lost_frames
            try:
                frame = self._assembler.receive(datagram)
            except ProtocolError:
                continue  # neither a frame nor part of one: a gap in the frames will tell
            if frame is not None:
                wanted |= self._judge(frame, after_loss=self._assembler.lost_frames > lost_frames)
        return wanted

    def _opened(self, datagrams: Iterable[bytes]) -> Iterator[bytes]:
        for datagram in datagrams:
            if self.opener is None:
                yield datagram
                continue
            try:
                yield self.opener.open(datagram)
            except ProtocolError:
                self.undecryptable += 1

    def _judge(self, frame: AssembledFrame, *, after_loss: bool) -> bool:
        self.whole += 1
        self.recovered += frame.recovered_packets
        stamp = noise_stamp(frame.data)
        if stamp == self._stamp:
            self._own += 1
        elif stamp is None:
            self._unnamed += 1
        else:
            self.foreign += 1
        if frame.kind == FrameKind.IDR:
            self.begun, self._useless_frames = True, None
        elif self._useless_frames is not None:
            self._useless_frames = (self._useless_frames + 1) % MAX_USELESS_FRAMES
            return self._useless_frames == 0
        elif after_loss:
            self._useless_frames = 0
            return True
        return False

    def begin(self) -> None:
        """Count anew."""
        self.loss.begin()
        self._lost_before = self._assembler.lost_frames
        self.whole = self.recovered = 0


class AudioMeter:
    """Decrypts audio and counts it."""

    def __init__(self, rikey: bytes, rikeyid: int) -> None:
        self._cipher = AudioCipher(rikey, rikeyid)
        self._datagrams = StampedDatagrams(stamp_of(rikeyid))
        self._own = 0
        self._undecipherable = 0
        self.loss = SequenceLoss()

    @property
    def foreign(self) -> int:
        """Packets of another session, parity too where it is stamped."""
        # What does not decrypt carries another stamp, where there are stamps.
        return max(self._undecipherable, self._datagrams.foreign)

    @property
    def whose(self) -> Whose:
        """Whose the sound was."""
        return Whose.judge(own=self._own, foreign=self.foreign)

    def receive(self, datagrams: Iterable[bytes]) -> None:
        """Take datagrams. Parity has numbers of its own, so only data packets are counted."""
        for datagram in datagrams:
            if len(datagram) < RTP_HEADER_BYTES:
                continue
            self._datagrams.note(datagram)
            if datagram[1] & 0x7F == AUDIO_PAYLOAD_TYPE:
                sequence = datagram[2] << 8 | datagram[3]
                self.loss.note(sequence)
                self._decrypt(sequence, datagram[RTP_HEADER_BYTES:])

    def _decrypt(self, sequence: int, sealed: bytes) -> None:
        """Open every packet, also one that comes late or twice and would never be played."""
        try:
            self._cipher.open(sequence, sealed)
        except Malformed:
            self._undecipherable += 1
        else:
            self._own += 1

    def begin(self) -> None:
        """Count anew."""
        self.loss.begin()


class RoundTrips:
    """Times what a client sends on its control connection against the acknowledgements of it."""

    def __init__(self) -> None:
        self._sent: dict[tuple[int, int, int], float] = {}
        """Channel, number and sent time of every transmission that awaits its acknowledgement."""
        self.samples_ms: list[float] = []

    def sent(self, datagram: bytes, now: float) -> None:
        """Note a datagram that goes out; `now` is in seconds."""
        packet = enet.parse_packet(datagram)
        if packet.sent_time is None:
            return
        for command in packet.commands:
            if command.wants_acknowledgement:
                key = (command.channel, command.reliable_sequence, packet.sent_time)
                self._sent[key] = now
        while len(self._sent) > _MAX_AWAITED:
            del self._sent[next(iter(self._sent))]

    def received(self, datagram: bytes, now: float) -> None:
        """Note a datagram that came in. Raises as `moonlight.enet.parse_packet`."""
        for command in enet.parse_packet(datagram).commands:
            body = command.body
            if not isinstance(body, Acknowledge):
                continue
            key = (command.channel, body.received_sequence, body.received_sent_time)
            sent_at = self._sent.pop(key, None)
            if sent_at is not None and len(self.samples_ms) < _MAX_ROUND_TRIPS:
                self.samples_ms.append((now - sent_at) * 1000)

    def begin(self) -> None:
        """Count anew; what is under way now is not counted."""
        self._sent.clear()
        self.samples_ms.clear()
