"""The checks of an agent, on its own machine, whether it runs or not; none of them changes it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import trio

from agent.config import AgentConfig, HostConfig, token_of
from agent.errors import HostApiError
from agent.gpus import select
from agent.host_api import open_api
from agent.host_gpus import is_here
from agent.host_http import Place, ask_xml
from agent.host_kinds import pin_setting
from agent.machine import Machine
from agent.reloading import tls_of
from moonhost.checks import machine
from moonhost.checks.dialling import cause_of, dial
from moonhost.checks.finding import Finding, not_checked, ok, problem
from moonhost.checks.judging_agent import (
    GpuFacts,
    HostFacts,
    judge_dial,
    judge_gpus,
    judge_host,
    udp_is_not_checked,
)
from moonhost.checks.judging_machine import judge_buffers, judge_clock, judge_user
from moonhost.checks.running import Check, run_checks
from moonlight.errors import printable
from revdial.udp import default_buffer_bytes
from settings import ConfigError

host_timeout_s: Final = 3.0
gpu_timeout_s: Final = 5.0
dial_deadline_s: Final = 14.0


async def check_agent(config: AgentConfig, path: Path, command: str) -> list[Finding]:
    """Look at an agent that runs with this configuration, or would; takes 20 s at most.

    `path` is where the configuration is, and `command` what was typed.
    """
    token_file = config.edge.token_file
    checks = [
        Check("user", partial(_user, token_file or path, command)),
        Check("edge", partial(_edge, config), dial_deadline_s),
        *(Check("hosts", partial(_host, host, config)) for host in config.hosts),
        Check("hosts", partial(_udp, config)),
        Check("GPUs", partial(_gpus, config)),
        Check("UDP buffers", _buffers),
        Check("clock", _clock),
    ]
    return await run_checks(checks)


async def _user(own_file: Path, command: str) -> list[Finding]:
    return [judge_user(machine.user_of(own_file), command)]


async def _edge(config: AgentConfig) -> list[Finding]:
    kept = config.edge.token_file
    if kept is not None and machine.is_closed_to_us(kept.parent):
        why = "it is not ours to look into: run this as the agent's user"
        return [not_checked("token", str(kept.parent), why)]
    try:
        token = token_of(config.edge)
    except ConfigError as error:
        remedy = "Write the token that `moonhost token agent` printed there, as the agent's user."
        return [problem("token", f"{config.edge.token_file}: {error.why}", remedy)]
    try:
        tls = tls_of(config.edge)
    except ConfigError as error:
        seen = f"edge.ca_file {config.edge.ca_file} cannot be used: {error.why}"
        return [problem("edge", seen, "Copy the edge's state_dir/agents.pem there.")]
    found = judge_dial(await dial(config.edge.url, token, tls), config.agent.id)
    return [ok("token", f"it is read from {kept or 'the environment'}"), *found]


async def _host(host: HostConfig, config: AgentConfig) -> list[Finding]:
    ports: dict[str, str | None] = {}
    api_fault: list[str | None] = []

    async def ask_api() -> None:
        api_fault.append(await _api_fault(host, config))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_ask_serverinfo, host, ports)
        nursery.start_soon(_connect, host, "HTTPS", host.https_port, ports)
        nursery.start_soon(_connect, host, "RTSP", host.rtsp_port, ports)
        nursery.start_soon(ask_api)
    setting = pin_setting(host.kind)
    has_api = host.wolf_socket is not None or host.has_api_settings
    called = {"wolf": "Wolf's API", "sunshine": "Sunshine's API"}[host.kind] if has_api else ""
    if (made := _made_at_start(host)) is not None:
        why = f"the agent makes {made} at its first start"
        facts = HostFacts(host.name, _sorted(ports), called, None, setting)
        return [judge_host(facts)[0], not_checked("hosts", f"{called} of {host.name}", why)]
    return judge_host(HostFacts(host.name, _sorted(ports), called, api_fault[0], setting))


def _sorted(ports: Mapping[str, str | None]) -> dict[str, str | None]:
    return dict(sorted(ports.items()))


def _made_at_start(host: HostConfig) -> Path | None:
    """Tell what opening a host's API would make, which is not the doctor's to do."""
    path = host.identity_file
    return path if path is not None and not path.exists() else None


async def _ask_serverinfo(host: HostConfig, ports: dict[str, str | None]) -> None:
    place = Place(str(host.address), host.http_port, "it")
    try:
        await ask_xml(place, "/serverinfo", timeout_s=host_timeout_s)
    except HostApiError as error:
        ports[f"HTTP {host.http_port}"] = str(error)
    else:
        ports[f"HTTP {host.http_port}"] = None


async def _connect(host: HostConfig, service: str, port: int, ports: dict[str, str | None]) -> None:
    fault: str | None = f"no answer in {host_timeout_s:g} s"
    with trio.move_on_after(host_timeout_s):
        try:
            stream = await trio.open_tcp_stream(str(host.address), port)
        except OSError as error:
            fault = printable(cause_of(error))
        else:
            fault = None
            await trio.aclose_forcefully(stream)
    ports[f"{service} {port}"] = fault


async def _api_fault(host: HostConfig, config: AgentConfig) -> str | None:
    if _made_at_start(host) is not None:
        return None
    try:
        async with open_api(host, config.limits) as api:
            if api is not None:
                await api.session_count()
                await api.apps()
    except HostApiError as error:
        return str(error)
    except ConfigError as error:
        return error.why
    return None


async def _udp(config: AgentConfig) -> list[Finding]:
    return [udp_is_not_checked([host.name for host in config.hosts])] if config.hosts else []


async def _gpus(config: AgentConfig) -> list[Finding]:
    reading = [host for host in config.hosts if host.reads_gpus]
    if not reading:
        return []
    async with Machine.open(timeout_s=gpu_timeout_s) as here:
        state = await here.read()
    found = []
    for host in reading:
        if host.gpus is None and not is_here(host.address, state.addresses):
            continue
        selection = select(state.gpus, host.gpus)
        found.append(
            judge_gpus(
                GpuFacts(
                    host.name,
                    tuple(printable(gpu.name) for gpu in selection.gpus),
                    tuple(
                        printable(gpu.name)
                        for gpu in selection.gpus
                        if gpu.memory_used_bytes is None
                    ),
                    selection.missing,
                    tuple(printable(gpu.id) for gpu in state.gpus),
                )
            )
        )
    return found


async def _buffers() -> list[Finding]:
    return [judge_buffers(machine.buffers(), default_buffer_bytes)]


async def _clock() -> list[Finding]:
    return [judge_clock(machine.clock_is_synchronised())]
