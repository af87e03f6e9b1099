"""Each client's identity towards hosts: made once, paired at a host on first use.

Hosts keep one session and one state folder a client, so every client of the edge needs a
certificate of its own there. The edge plays the client's side of the pairing with a random PIN
and asks the agent to tell that PIN to the host.
"""

from __future__ import annotations

import secrets
import ssl
import uuid
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Final

import structlog
import trio

from backends.model import BackendId
from backends.records import IdentityRecord, PairingRecord
from backends.store import Store
from moonlight.errors import ProtocolError
from moonlight.http import Query
from moonlight.identity import ClientId, Identity, PeerCertificate, short_id
from moonlight.pairing import PairingClient
from moonlight.tls import client_context
from proxy.errors import HostRefused, HostUnavailable
from proxy.fleet import Fleet, host_name
from proxy.hosts import HostRequest, ask_xml
from proxy.keyed_locks import KeyedLocks
from proxy.nurseries import flat_nursery
from revdial.errors import TunnelError

_log = structlog.get_logger()

pairing_timeout_s: Final = 30.0
confirm_timeout_s: Final = 10.0
attempts: Final = 2
max_contexts: Final = 1_024
host_unique_id: Final = "0123456789ABCDEF"


class HostPairing:
    """Gives the TLS context with which a client may talk to a backend, pairing it if need be."""

    def __init__(self, store: Store, fleet: Fleet) -> None:
        self._store = store
        self._fleet = fleet
        self._locks: KeyedLocks[BackendId] = KeyedLocks()
        self._contexts: OrderedDict[tuple[ClientId, BackendId], ssl.SSLContext] = OrderedDict()

    async def context_for(self, client: ClientId, backend: BackendId) -> ssl.SSLContext:
        """Return the context of a client at a backend.

        Raises:
            HostUnavailable: the host or its agent cannot be reached, or did not pair in time.
            HostRefused: the host refused the pairing.
            backends.errors.StoreError: the store is away.

        """
        key = (client, backend)
        if (context := self._contexts.get(key)) is not None:
            self._contexts.move_to_end(key)
            return context
        identity = await self._identity(client)
        record = await self._store.get_pairing(client, backend)
        if record is None:
            record = await self._pair_in_turn(identity, client, backend)
        context = client_context(identity, pinned_der=record.host_certificate_der)
        self._contexts[key] = context
        while len(self._contexts) > max_contexts:
            self._contexts.popitem(last=False)
        return context

    def knows(self, client: ClientId, backend: BackendId) -> bool:
        """Tell whether `context_for` would return at once."""
        return (client, backend) in self._contexts

    async def forget(self, client: ClientId, backend: BackendId) -> None:
        """Forget a pairing that the host does not know any more."""
        self._contexts.pop((client, backend), None)
        await self._store.delete_pairing(client, backend)

    def forget_client(self, client: ClientId) -> None:
        """Forget the contexts of a client that was unpaired from the edge."""
        for key in [key for key in self._contexts if key[0] == client]:
            del self._contexts[key]

    async def _identity(self, client: ClientId) -> Identity:
        record = await self._store.get_host_identity(client)
        if record is None:
            made = await trio.to_thread.run_sync(_new_identity)
            record = await self._store.add_host_identity(
                client, IdentityRecord(made.key_pem, made.certificate.pem)
            )
        return Identity.from_pem(record.key_pem, record.certificate_pem)

    async def _pair_in_turn(
        self, identity: Identity, client: ClientId, backend: BackendId
    ) -> PairingRecord:
        """Pair, one client at a time a host: some key theirs by address alone (protocol.md §8)."""
        try:
            async with self._locks.held(backend, timeout_s=pairing_timeout_s):
                # Another request of this client may have paired it meanwhile.
                record = await self._store.get_pairing(client, backend)
                if record is None:
                    record = await self._pair_with_patience(identity, client, backend)
                return record
        except trio.TooSlowError:
            raise HostUnavailable(
                "host_pairing_busy", f"others are being paired with {backend} for too long"
            ) from None

    async def _pair_with_patience(
        self, identity: Identity, client: ClientId, backend: BackendId
    ) -> PairingRecord:
        # The same at each attempt: where all pairings come from one address, the agent may still be
        # looking for the one before, and tell the host the PIN of that.
        pin = f"{secrets.randbelow(10_000):04}"
        for attempt in range(1, attempts + 1):
            try:
                with trio.fail_after(pairing_timeout_s):
                    certificate = await self._pair(identity, client, backend, pin)
            except trio.TooSlowError:
                raise HostUnavailable(
                    "host_pairing_timeout",
                    f"{backend} did not finish pairing within {pairing_timeout_s:g} s",
                ) from None
            except ProtocolError as error:
                # After an aborted pairing some hosts refuse once, and accept the next.
                if attempt == attempts:
                    raise HostRefused(
                        502, "host_refused_pairing", f"{backend} refused the pairing: {error}"
                    ) from error
                _log.info(
                    "host_pairing_retried",
                    client=short_id(client),
                    backend=backend,
                    why=str(error),
                )
            else:
                record = PairingRecord(client, backend, certificate.der, datetime.now(UTC))
                await self._store.put_pairing(record)
                _log.info("client_paired_with_host", client=short_id(client), backend=backend)
                return record
        raise AssertionError("the last attempt returns or raises")

    async def _pair(
        self, identity: Identity, client: ClientId, backend: BackendId, pin: str
    ) -> PeerCertificate:
        machine = PairingClient(identity, pin)
        origin = f"pair-{client[:16]}-{secrets.token_hex(4)}"
        unconfirmed: HostUnavailable | None = None

        async def confirm() -> None:
            nonlocal unconfirmed
            try:
                await self._confirm(backend, pin, origin)
            except HostUnavailable as error:
                # Not raised from here: the host's own refusal may come in the same moment.
                unconfirmed = error
                nursery.cancel_scope.cancel()

        introduced = False
        async with flat_nursery() as nursery:
            nursery.start_soon(confirm)
            await self._step(machine, identity, backend, origin)
            # A host that answered the first step has its PIN; do not wait for the agent's word.
            introduced = True
            nursery.cancel_scope.cancel()
        if unconfirmed is not None and not introduced:
            raise unconfirmed
        while not machine.finished:
            await self._step(machine, identity, backend, origin)
        return machine.server_certificate

    async def _step(
        self, machine: PairingClient, identity: Identity, backend: BackendId, origin: str
    ) -> None:
        tls = None
        if machine.over_https:
            tls = client_context(identity, pinned_der=machine.server_certificate.der)
        query = Query.of(("uniqueid", host_unique_id), ("uuid", uuid.uuid4().hex))
        request = HostRequest(
            "/pair", query + machine.next_query(), origin, timeout_s=pairing_timeout_s
        )
        machine.receive(await ask_xml(self._fleet, backend, request, tls))

    async def _confirm(self, backend: BackendId, pin: str, origin: str) -> None:
        """Have the agent tell the host our PIN; HostUnavailable if it could not."""
        try:
            await self._fleet.tunnel(backend).request(
                "confirm_pin",
                {"host": host_name(backend), "pin": pin, "origin": origin},
                confirm_timeout_s,
            )
        except TunnelError as error:
            raise HostUnavailable(
                error.reason, f"the agent could not confirm a PIN at {backend}: {error}"
            ) from error


def _new_identity() -> Identity:
    return Identity.generate("NVIDIA GameStream Client", now=datetime.now(UTC))
