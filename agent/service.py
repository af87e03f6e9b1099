"""The agent as a whole: dials home, and does what the edge asks as far as its own list allows."""

from __future__ import annotations

import importlib.metadata
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Annotated

import msgspec
import msgspec.structs
import trio

from agent.addresses import SourceAddresses
from agent.budget import with_flows
from agent.config import AgentConfig, HostConfig, token_of
from agent.errors import HostApiError, NeighbourError
from agent.flows import FlowRelay
from agent.host_api import Confirmation
from agent.host_kinds import pin_setting
from agent.machine import Machine
from agent.neighbours import Neighbours
from agent.probing import UdpProbes
from agent.reloading import ReloadableParts, reloadable, tls_of
from agent.streams import StreamRelay
from agent.targets import target_of
from agent.telemetry import Telemetry
from agent.wolf import parse_address
from moonlight.shards import shard_of
from revdial.dialer import TunnelDialer
from revdial.errors import RequestFailed
from revdial.flow import DatagramChannel
from revdial.framing import Preamble
from revdial.limits import DialerLimits
from revdial.messages import Dial, Heartbeat, Hello, Json
from revdial.observer import Counters
from revdial.probes import probe_method
from revdial.stream import WebSocketStream
from settings.reloading import Reloading

max_confirm_timeout_s = 10.0


async def run_agent(
    config: AgentConfig,
    *,
    follow: Callable[[Reloading[AgentConfig]], Awaitable[None]] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the edge until cancelled; `task_status` is told when the edge first welcomes us.

    `follow` is run beside it, and may have another configuration take this one's place.

    Raises `ConfigError` where the token or the certificates that the configuration names cannot
    be used.
    """
    token, tls = token_of(config.edge), tls_of(config.edge)
    addresses = SourceAddresses(
        max_origins=4 * (config.limits.max_streams + config.limits.max_flows)
    )
    async with AsyncExitStack() as stack:
        machine = await stack.enter_async_context(
            Machine.open(
                timeout_s=config.limits.reading_timeout_s,
                # An owner who states all GPUs wants none read.
                read_gpus=any(host.reads_gpus for host in config.hosts),
            )
        )
        telemetry = await stack.enter_async_context(
            Telemetry.open(config.hosts, config.limits, machine.read)
        )
        flows = await stack.enter_async_context(FlowRelay.open(addresses, config.limits))
        # Before the first hello, so that players see the apps as soon as they see the host.
        await telemetry.refresh_apps()
        observer = Counters()
        agent = Agent(config, addresses, telemetry, flows, observer)
        dialer = TunnelDialer(
            config.edge.url,
            token,
            tls,
            hello=agent.hello,
            heartbeat=agent.heartbeat,
            check=agent.check,
            on_stream=agent.on_stream,
            on_flow=agent.on_flow,
            on_request=agent.on_request,
            classify=shard_of,
            observer=observer,
            limits=DialerLimits(
                max_data_connections=config.limits.max_streams + config.limits.max_flows
            ),
        )
        parts = ReloadableParts(dialer, agent.neighbours)
        async with trio.open_nursery() as nursery:
            if follow is not None:
                reloading = Reloading(config, reloadable, parts.prepare, (ValueError,))
                nursery.start_soon(follow, reloading)
            await dialer.run(task_status=task_status)


class _ConfirmPin(msgspec.Struct):
    host: str
    pin: str
    origin: Annotated[str, msgspec.Meta(max_length=128)]
    # A little less than the edge waits by default: it shall hear why, and not only nothing.
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=max_confirm_timeout_s)] = 9.5

    def __repr__(self) -> str:
        return f"_ConfirmPin(host={self.host!r}, …)"


class _WakeHost(msgspec.Struct):
    neighbour: Annotated[str, msgspec.Meta(max_length=128)]


class Agent:
    """What the edge can ask of an agent, whichever tunnel it asks through."""

    def __init__(
        self,
        config: AgentConfig,
        addresses: SourceAddresses,
        telemetry: Telemetry,
        flows: FlowRelay,
        observer: Counters | None = None,
    ) -> None:
        self._config = config
        self._hosts: Mapping[str, HostConfig] = {host.name: host for host in config.hosts}
        self._addresses = addresses
        self._telemetry = telemetry
        self._flows = flows
        self._observer = observer or Counters()
        self._streams = StreamRelay(addresses, config.limits)
        self.neighbours = Neighbours(config.neighbours)
        self._probes = UdpProbes(config.edge.url)
        self._software = _software()
        self._confirming: dict[tuple[str, str], trio.CancelScope] = {}

    def hello(self) -> Hello:
        """Introduce this agent, with its hosts and their apps as last heard."""
        identity = self._config.agent
        return Hello(
            agent_id=identity.id,
            region=identity.region,
            latitude=identity.latitude,
            longitude=identity.longitude,
            software=self._software,
            hosts=self._telemetry.offers(),
        )

    async def heartbeat(self) -> Heartbeat:
        """Tell how hosts and machine are, and what was lost here."""
        losses = self._flows.losses() + Counter(
            {str(reason): count for reason, count in self._observer.losses.items()}
        )
        told = msgspec.structs.replace(await self._telemetry.heartbeat(), losses=dict(losses))
        return with_flows(told, self._flows.reports())

    async def check(self, dial: Dial) -> None:
        """Raise `DialRefused` for what is not on the list."""
        target_of(dial, self._hosts)

    async def on_stream(self, dial: Dial, stream: WebSocketStream) -> None:
        """Join a stream to its host."""
        await self._streams.serve(target_of(dial, self._hosts), dial.origin, stream)

    async def on_flow(self, dial: Dial, channel: DatagramChannel, preamble: Preamble) -> None:
        """Join a flow to its host."""
        target = target_of(dial, self._hosts)
        await self._flows.serve(target, dial.origin, preamble.session, preamble.flow, channel)

    async def on_request(self, method: str, params: dict[str, Json]) -> dict[str, Json]:
        """Do what is not a dial; `RequestFailed` says why not."""
        if method == "wake_host":
            await self._wake_host(params)
            return {}
        if method == probe_method:
            return await self._probes.send(params)
        if method != "confirm_pin":
            raise RequestFailed("unknown_method", "this agent does not know that request")
        try:
            request = msgspec.convert(params, _ConfirmPin)
        except msgspec.ValidationError:
            # The library's text would quote what was sent, a PIN perhaps.
            raise RequestFailed(
                "bad_request", "confirm_pin wants a host, a PIN and an origin"
            ) from None
        await self._confirm_pin(request)
        return {}

    async def _wake_host(self, params: dict[str, Json]) -> None:
        try:
            request = msgspec.convert(params, _WakeHost)
        except msgspec.ValidationError:
            raise RequestFailed("bad_request", "wake_host wants a neighbour's name") from None
        try:
            await self.neighbours.wake(request.neighbour)
        except NeighbourError as error:
            raise RequestFailed(error.reason, str(error)) from error

    async def _confirm_pin(self, request: _ConfirmPin) -> None:
        host = self._hosts.get(request.host)
        if host is None:
            raise RequestFailed("unknown_host", "this agent has no such host")
        api = self._telemetry.api(host.name)
        if api is None:
            raise RequestFailed(
                "no_pin_api",
                f"set {pin_setting(host.kind)} for {host.name}, so that PINs can be confirmed",
            )
        with ExitStack() as leases:
            if host.takes_source_addresses:
                source = leases.enter_context(self._addresses.lease(request.origin))
            else:
                source = str(host.seen_as or _own_address(host))
            address = parse_address(source)
            assert address is not None  # noqa: S101 - configured, or one of our own
            confirmation = Confirmation(
                pin=request.pin,
                origin=request.origin,
                address=address,
                is_under_way=lambda: self._streams.has_sent(request.origin),
                timeout_s=request.timeout_s,
            )
            try:
                with self._newest_confirmation(host.name, source):
                    await api.confirm(confirmation)
            except HostApiError as error:
                raise RequestFailed(error.reason, str(error)) from error

    @contextmanager
    def _newest_confirmation(self, host: str, source: str) -> Iterator[None]:
        """Break off an earlier confirmation for this address: it would take our pairing for its."""
        if (earlier := self._confirming.get((host, source))) is not None:
            earlier.cancel()
        with trio.CancelScope() as scope:
            self._confirming[host, source] = scope
            try:
                yield
            finally:
                if self._confirming.get((host, source)) is scope:
                    del self._confirming[host, source]
        if scope.cancelled_caught:
            raise RequestFailed(
                "superseded", "another pairing from the same address waits for its PIN now"
            )


def _own_address(host: HostConfig) -> str:
    """Give the address of this machine that the host sees; nothing is sent to find out."""
    family = socket.AF_INET if host.address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(host.address), host.http_port))
        except OSError as error:
            raise RequestFailed(
                "host_unreachable", f"there is no route to {host.name}: {error.strerror}"
            ) from error
        return str(probe.getsockname()[0])


def _software() -> str:
    try:
        return f"moonhost {importlib.metadata.version('moonhost')}"
    except importlib.metadata.PackageNotFoundError:
        return "moonhost"
