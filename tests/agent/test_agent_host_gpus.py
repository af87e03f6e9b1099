"""Which GPUs a heartbeat names for a host, by its configuration and its address."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.config import HostConfig
from agent.gpus import Gpu
from agent.host_gpus import HostGpus, is_here
from agent.machine import MachineState
from revdial.messages import GpuReport

GIB = 1 << 30
RTX = Gpu(("0000:01:00.0", "renderD128"), "RTX 4090", "nvidia", "nvidia", GIB, 24 * GIB)
INTEGRATED = Gpu(("0000:0c:00.0", "renderD129"), "Raphael", "amd", "amdgpu", 500, 512)
OWN = frozenset({ip_address("192.168.1.5")})
MACHINE = MachineState(gpus=(INTEGRATED, RTX), addresses=OWN)

RTX_REPORT = GpuReport("RTX 4090", "nvidia", GIB, 24 * GIB)
INTEGRATED_REPORT = GpuReport("Raphael", "amd", 500, 512)


def gpus_of(max_bytes: int = 10_000, **settings: Any) -> HostGpus:
    return HostGpus(HostConfig.model_validate({"name": "wolf", **settings}), max_bytes)


@pytest.mark.parametrize(
    ("settings", "reports"),
    [
        ({}, (RTX_REPORT,)),
        ({"address": "192.168.1.5"}, (RTX_REPORT,)),
        ({"address": "192.168.1.6"}, ()),
        ({"address": "192.168.1.6", "gpus": ["01:00.0"]}, (RTX_REPORT,)),
        ({"gpus": ["/dev/dri/renderD129"]}, (INTEGRATED_REPORT,)),
        ({"gpus": []}, ()),
        ({"gpu": {"name": "A770"}}, (GpuReport("A770"),)),
        (
            {"address": "192.168.1.6", "gpu": {"name": "A770", "memory_total_bytes": 16 * GIB}},
            (GpuReport("A770", memory_total_bytes=16 * GIB),),
        ),
    ],
)
def test_a_host_has_the_gpus_here_that_are_its_own(
    settings: dict[str, Any], reports: tuple[GpuReport, ...]
) -> None:
    assert gpus_of(**settings).reports(MACHINE) == reports


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.64.0.1", True),
        ("::1", True),
        ("0.0.0.0", True),
        ("::ffff:192.168.1.5", True),
        ("::ffff:127.0.0.1", True),
        ("192.168.1.5", True),
        ("192.168.1.50", False),
        ("fe80::1", False),
    ],
)
def test_which_addresses_are_here(address: str, here: bool) -> None:
    assert is_here(ip_address(address), OWN) is here


def test_a_name_that_no_reader_knows_is_reported_and_told_once() -> None:
    gpus = gpus_of(gpus=["0000:01:00.0", "renderD130"])
    hotter = MachineState(gpus=(INTEGRATED, RTX, Gpu(("0000:0d:00.0", "renderD130"), "B580")))
    with capture_logs() as logs:
        for _ in range(2):
            assert gpus.reports(MACHINE) == (RTX_REPORT, GpuReport("renderD130"))
        assert gpus.reports(hotter) == (RTX_REPORT, GpuReport("B580"))
        assert gpus.reports(MACHINE)[1] == GpuReport("renderD130")
    assert [entry["event"] for entry in logs] == [
        "gpus_not_found",
        "gpus_found",
        "gpus_not_found",
    ]
    assert logs[0]["missing"] == ["renderD130"]
    assert logs[0]["there"] == [
        "0000:0c:00.0 renderD129 Raphael",
        "0000:01:00.0 renderD128 RTX 4090",
    ]


def test_more_gpus_than_a_message_has_room_for_are_left_out_and_told_once() -> None:
    gpus = gpus_of(max_bytes=150, gpus=["0000:01:00.0", "0000:0c:00.0"])
    with capture_logs() as logs:
        for _ in range(2):
            assert gpus.reports(MACHINE) == (RTX_REPORT,)
    assert [entry["event"] for entry in logs] == ["gpus_left_out"]
