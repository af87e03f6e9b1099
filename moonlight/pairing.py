"""Pairing: how a client and a host come to trust each other's certificates through one PIN.

Both roles are state machines over queries and answers; the edge plays the host towards clients
and the client towards hosts. Steps 1 to 4 go over plain HTTP, the fifth over HTTPS:

====================  ===========================  ==========================================
phase                 the client sends             the host answers
====================  ===========================  ==========================================
get server cert       salt, client certificate     server certificate, once the PIN is known
client challenge      E(challenge)                 E(H(challenge, server signature,
                                                   server secret), server challenge)
server challenge      E(H(server challenge,        server secret, signed
response              client signature,
                      client secret))
client pairing        client secret, signed        paired or not
secret
pair challenge        nothing, over mutual TLS     paired or not
====================  ===========================  ==========================================

E is AES-128-ECB under the first 16 bytes of H(salt, PIN), H is SHA-256, a certificate's
"signature" is the one inside it, and "signed" appends an RSA signature with its key. Whoever
does not know the PIN cannot have both hashes right, since each was bound to its secret before
the other side's secret was shown.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Callable
from enum import Enum, StrEnum
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from moonlight.errors import AuthenticationFailed, Malformed, OutOfOrder, ProtocolError
from moonlight.http import Query
from moonlight.identity import Identity, PeerCertificate, max_certificate_bytes
from moonlight.xml import Answer, Element, HostRefused, text_element

salt_bytes: Final = 16
challenge_bytes: Final = 16
secret_bytes: Final = 16
hash_bytes: Final = 32
max_signature_bytes: Final = 1024
max_pin_digits: Final = 16

_pin: Final = re.compile(rf"[0-9]{{1,{max_pin_digits}}}")
_common: Final = Query.of(("devicename", "roth"), ("updateState", "1"))


class Phase(Enum):
    """The steps in their order; the value is the query field that marks a step."""

    GET_SERVER_CERT = "phrase=getservercert"
    CLIENT_CHALLENGE = "clientchallenge"
    SERVER_CHALLENGE_RESPONSE = "serverchallengeresp"
    CLIENT_PAIRING_SECRET = "clientpairingsecret"  # noqa: S105 - a field's name
    PAIR_CHALLENGE = "phrase=pairchallenge"


class PairingState(Enum):
    """What the host's side of a pairing waits for."""

    NEW = "the client's certificate"
    WAITING_FOR_PIN = "the PIN"
    PIN_KNOWN = Phase.GET_SERVER_CERT
    CERTIFICATE_SENT = Phase.CLIENT_CHALLENGE
    CHALLENGED = Phase.SERVER_CHALLENGE_RESPONSE
    SECRET_SENT = Phase.CLIENT_PAIRING_SECRET
    PAIRED = Phase.PAIR_CHALLENGE
    FAILED = "nothing more"


class PairingOutcome(StrEnum):
    """How the host's side of a pairing ended."""

    PAIRED = "paired"
    WRONG_PIN = "wrong_pin"
    WRONG_SIGNATURE = "wrong_signature"
    BROKEN_OFF = "broken_off"


def phase_of(query: Query) -> Phase:
    """Tell which step a ``/pair`` request is. Raises `Malformed` if none or more than one."""
    phrase = query.get("phrase")
    names = {name for name, _ in query.pairs if name != "phrase"}
    if phrase is not None:
        names.add(f"phrase={phrase}")
    found = [phase for phase in Phase if phase.value in names]
    if len(found) != 1:
        raise Malformed("bad_pairing", "The pairing request is none of the five known ones.")
    return found[0]


def client_introduction(query: Query) -> tuple[bytes, PeerCertificate]:
    """Read the first step: the salt and the client's certificate."""
    salt = _hex(query, "salt", salt_bytes, salt_bytes)
    pem = _hex(query, "clientcert", 1, 2 * max_certificate_bytes)
    return salt, PeerCertificate.from_pem(pem)


def pair_accepted() -> Answer:
    """Say that the step went well: the answer to the last two steps."""
    return Answer.ok(text_element("paired", 1))


def pair_refused(message: str = "The pairing was refused.") -> Answer:
    """Say that the client is not paired. The attempt is to be forgotten."""
    refusal = Answer.error(400, message, "/pair")
    return Answer(refusal.attributes, (text_element("paired", 0),))


class PairingServer:
    """The host's side of one pairing attempt.

    `begin` with the client's introduction, `provide_pin` once somebody told it, then `handle`
    each request, the first one included. `handle` raises `OutOfOrder` for a step that may not
    come now and `Malformed` for a wrong size; either ends the attempt, and the client gets
    `pair_refused`. A wrong PIN or signature is not raised but answered so, with `outcome` set.
    """

    def __init__(
        self, identity: Identity, *, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._identity = identity
        self._secret = random_bytes(secret_bytes)
        self._challenge = random_bytes(challenge_bytes)
        self._salt = b""
        self._client: PeerCertificate | None = None
        self._cipher = _PinCipher(b"")
        self._client_hash = b""
        self.state = PairingState.NEW
        self.outcome: PairingOutcome | None = None

    @property
    def client(self) -> PeerCertificate:
        """Who wants to be paired; to be trusted only when `outcome` is ``paired``."""
        if self._client is None:
            raise OutOfOrder("bad_pairing", "No client has begun this pairing.")
        return self._client

    def begin(self, salt: bytes, client_certificate: PeerCertificate) -> None:
        """Take the client's introduction (`client_introduction`)."""
        if self.state is not PairingState.NEW:
            raise OutOfOrder("bad_pairing", "This pairing has begun already.")
        self._salt = salt
        self._client = client_certificate
        self.state = PairingState.WAITING_FOR_PIN

    def provide_pin(self, pin: str) -> None:
        """Take the PIN that the client shows. A PIN that cannot be one raises `Malformed`."""
        if self.state is not PairingState.WAITING_FOR_PIN:
            raise OutOfOrder("bad_pairing", "This pairing does not wait for a PIN.")
        self._cipher = _PinCipher(_key(self._salt, pin))
        self.state = PairingState.PIN_KNOWN

    def handle(self, query: Query) -> Answer:
        """Answer one step."""
        steps: dict[Phase, Callable[[Query], Answer]] = {
            Phase.GET_SERVER_CERT: self._send_certificate,
            Phase.CLIENT_CHALLENGE: self._answer_challenge,
            Phase.SERVER_CHALLENGE_RESPONSE: self._show_secret,
            Phase.CLIENT_PAIRING_SECRET: self._judge,
            Phase.PAIR_CHALLENGE: lambda _: pair_accepted(),
        }
        try:
            phase = phase_of(query)
            if self.state.value is not phase:
                raise OutOfOrder("bad_pairing", "The steps of the pairing came out of order.")
            return steps[phase](query)
        except ProtocolError:
            if self.outcome is None:
                self._end(PairingOutcome.BROKEN_OFF)
            raise

    def _send_certificate(self, query: Query) -> Answer:
        salt, certificate = client_introduction(query)
        if salt != self._salt or certificate != self._client:
            raise OutOfOrder("bad_pairing", "Another client's pairing is under way.")
        self.state = PairingState.CERTIFICATE_SENT
        return Answer.ok(
            text_element("paired", 1),
            _hex_element("plaincert", self._identity.certificate.pem),
        )

    def _answer_challenge(self, query: Query) -> Answer:
        sealed = _hex(query, Phase.CLIENT_CHALLENGE.value, challenge_bytes, challenge_bytes)
        signature = self._identity.certificate.signature
        own_hash = _hash(self._cipher.open(sealed), signature, self._secret)
        self.state = PairingState.CHALLENGED
        return Answer.ok(
            text_element("paired", 1),
            _hex_element("challengeresponse", self._cipher.seal(own_hash + self._challenge)),
        )

    def _show_secret(self, query: Query) -> Answer:
        sealed = _hex(query, Phase.SERVER_CHALLENGE_RESPONSE.value, hash_bytes, hash_bytes)
        self._client_hash = self._cipher.open(sealed)
        self.state = PairingState.SECRET_SENT
        return Answer.ok(
            _hex_element("pairingsecret", self._secret + self._identity.sign(self._secret)),
            text_element("paired", 1),
        )

    def _judge(self, query: Query) -> Answer:
        secret, signature = _signed_secret(_signed_secret_hex(query))
        expected = _hash(self._challenge, self.client.signature, secret)
        if not hmac.compare_digest(expected, self._client_hash):
            self._end(PairingOutcome.WRONG_PIN)
            return pair_refused("The PIN was wrong.")
        if not self.client.verify(secret, signature):
            self._end(PairingOutcome.WRONG_SIGNATURE)
            return pair_refused("The client's signature is not its certificate's.")
        self._end(PairingOutcome.PAIRED)
        return pair_accepted()

    def _end(self, outcome: PairingOutcome) -> None:
        paired = outcome is PairingOutcome.PAIRED
        self.state = PairingState.PAIRED if paired else PairingState.FAILED
        self.outcome = outcome
        self._cipher = _PinCipher(b"")


class PairingClient:
    """The client's side of one pairing attempt.

    Send `next_query` to ``/pair`` (over HTTPS, pinned to `server_certificate`, when `over_https`
    says so), give the answer to `receive`, until `finished`. The PIN has to reach the host by
    another way while the first answer is awaited. `receive` raises `AuthenticationFailed` with
    the reason ``wrong_pin``, ``wrong_signature`` or ``refused``, or `Malformed`; the attempt is
    then over, and the host should be told by ``/unpair``.
    """

    def __init__(
        self,
        identity: Identity,
        pin: str,
        *,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._identity = identity
        self._salt = random_bytes(salt_bytes)
        self._challenge = random_bytes(challenge_bytes)
        self._secret = random_bytes(secret_bytes)
        self._cipher = _PinCipher(_key(self._salt, pin))
        self._server: PeerCertificate | None = None
        self._server_trusted = False
        self._server_hash = b""
        self._server_challenge = b""
        self._phase: Phase | None = Phase.GET_SERVER_CERT
        self._failed = False

    @property
    def finished(self) -> bool:
        """Whether both sides trust each other now."""
        return self._phase is None

    @property
    def over_https(self) -> bool:
        """Whether the next query is the one that goes over HTTPS."""
        return self._phase is Phase.PAIR_CHALLENGE

    @property
    def server_certificate(self) -> PeerCertificate:
        """The host's certificate, once the host has proven that it knows the PIN and its key."""
        if self._server is None or not self._server_trusted:
            raise OutOfOrder("bad_pairing", "The host has not proven its certificate yet.")
        return self._server

    def next_query(self) -> Query:
        """Give the next step's query, without ``uniqueid`` and ``uuid``."""
        return _common + Query.of(*self._fields(self._current_phase()))

    def _fields(self, phase: Phase) -> tuple[tuple[str, str], ...]:
        match phase:
            case Phase.GET_SERVER_CERT:
                return (
                    ("phrase", "getservercert"),
                    ("salt", self._salt.hex()),
                    ("clientcert", self._identity.certificate.pem.hex()),
                )
            case Phase.CLIENT_CHALLENGE:
                return ((phase.value, self._cipher.seal(self._challenge).hex()),)
            case Phase.SERVER_CHALLENGE_RESPONSE:
                signature = self._identity.certificate.signature
                own_hash = _hash(self._server_challenge, signature, self._secret)
                return ((phase.value, self._cipher.seal(own_hash).hex()),)
            case Phase.CLIENT_PAIRING_SECRET:
                signed = self._secret + self._identity.sign(self._secret)
                return ((phase.value, signed.hex()),)
            case _:
                return (("phrase", "pairchallenge"),)

    def receive(self, answer: Answer) -> None:
        """Take the host's answer to the query given last."""
        phase = self._current_phase()
        try:
            self._check_paired(answer)
            match phase:
                case Phase.GET_SERVER_CERT:
                    self._take_certificate(answer)
                case Phase.CLIENT_CHALLENGE:
                    self._take_challenge(answer)
                case Phase.SERVER_CHALLENGE_RESPONSE:
                    self._judge(answer)
                case _:
                    pass
        except ProtocolError:
            self._failed = True
            raise
        phases = list(Phase)
        following = phases.index(phase) + 1
        self._phase = phases[following] if following < len(phases) else None

    def _current_phase(self) -> Phase:
        if self._phase is None or self._failed:
            raise OutOfOrder("bad_pairing", "This pairing is over.")
        return self._phase

    def _check_paired(self, answer: Answer) -> None:
        try:
            answer.checked()
        except HostRefused as refusal:
            raise AuthenticationFailed("refused", str(refusal)) from refusal
        if answer.text("paired") != "1":
            raise AuthenticationFailed("refused", "The host refused the pairing.")

    def _take_certificate(self, answer: Answer) -> None:
        if not answer.text("plaincert"):
            # so hosts say that they are pairing with somebody else
            raise AuthenticationFailed("refused", "The host is pairing with another client.")
        pem = _answer_hex(answer, "plaincert", 1, 2 * max_certificate_bytes)
        self._server = PeerCertificate.from_pem(pem)

    def _take_challenge(self, answer: Answer) -> None:
        length = hash_bytes + challenge_bytes
        opened = self._cipher.open(_answer_hex(answer, "challengeresponse", length, length))
        self._server_hash, self._server_challenge = opened[:hash_bytes], opened[hash_bytes:]

    def _judge(self, answer: Answer) -> None:
        server = self._server
        assert server is not None  # noqa: S101 - step 1 has set it or raised
        signed = _answer_hex(
            answer, "pairingsecret", secret_bytes + 1, secret_bytes + max_signature_bytes
        )
        secret, signature = _signed_secret(signed)
        if not server.verify(secret, signature):
            raise AuthenticationFailed(
                "wrong_signature", "The host's signature is not its certificate's."
            )
        expected = _hash(self._challenge, server.signature, secret)
        if not hmac.compare_digest(expected, self._server_hash):
            raise AuthenticationFailed("wrong_pin", "The host was given another PIN.")
        self._server_trusted = True


class _PinCipher:
    """AES-128-ECB without padding, which GameStream prescribes for these whole blocks of noise."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, plain: bytes) -> bytes:
        encryptor = self._aes().encryptor()
        return encryptor.update(plain) + encryptor.finalize()

    def open(self, sealed: bytes) -> bytes:
        decryptor = self._aes().decryptor()
        return decryptor.update(sealed) + decryptor.finalize()

    def _aes(self) -> Cipher[modes.ECB]:
        return Cipher(algorithms.AES128(self._key), modes.ECB())  # noqa: S305


def _key(salt: bytes, pin: str) -> bytes:
    if not _pin.fullmatch(pin):
        raise Malformed("bad_pin", f"A PIN has 1 to {max_pin_digits} digits, usually 4.")
    return _hash(salt, pin.encode("ascii"))[:16]


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _signed_secret_hex(query: Query) -> bytes:
    return _hex(
        query,
        Phase.CLIENT_PAIRING_SECRET.value,
        secret_bytes + 1,
        secret_bytes + max_signature_bytes,
    )


def _signed_secret(signed: bytes) -> tuple[bytes, bytes]:
    return signed[:secret_bytes], signed[secret_bytes:]


def _hex(query: Query, name: str, min_bytes: int, max_bytes: int) -> bytes:
    return _from_hex(query.get(name), name, min_bytes, max_bytes)


def _answer_hex(answer: Answer, name: str, min_bytes: int, max_bytes: int) -> bytes:
    return _from_hex(answer.text(name), name, min_bytes, max_bytes)


def _from_hex(text: str | None, name: str, min_bytes: int, max_bytes: int) -> bytes:
    """Read hex of either case. The error names the field, never what was in it."""
    if text is None or not 2 * min_bytes <= len(text) <= 2 * max_bytes:
        raise Malformed("bad_pairing", f"The pairing's {name} is missing or of a wrong size.")
    try:
        return binascii.unhexlify(text)
    except ValueError:
        raise Malformed("bad_pairing", f"The pairing's {name} is not hexadecimal.") from None


def _hex_element(name: str, value: bytes) -> Element:
    return text_element(name, value.hex().upper())
