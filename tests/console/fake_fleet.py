"""Made-up backends, sessions and clients: the same ones every time, some with awkward names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

GIB: Final = 1 << 30
PLACES: Final = {
    "frankfurt": (50.1, 8.7),
    "amsterdam": (52.4, 4.9),
    "virginia": (38.9, -77.5),
    "tokyo": (35.7, 139.7),
    "sao-paulo": (-23.5, -46.6),
    "garage": (None, None),
}
AGENTS: Final = (
    ("living-room", "frankfurt"),
    ("rack-07", "amsterdam"),
    ("office", "frankfurt"),
    ("us-east-gpu-pool", "virginia"),
    ("tokyo-1", "tokyo"),
    ("sp-1", "sao-paulo"),
    ("garage-under-the-stairs-behind-the-old-washing-machine", "garage"),
)
STATES: Final = (
    ("healthy", None),
    ("healthy", None),
    ("draining", None),
    ("degraded", "telemetry_stale"),
    ("healthy", None),
    ("unhealthy", "tunnel_down"),
    ("healthy", None),
)
APPS: Final = ("Desktop", "Steam Big Picture", "Factorio", "The Witcher 3: Wild Hunt, Complete")
CLIENTS: Final = (
    "Anna's phone",
    "Living room TV",
    "Steam Deck",
    "iPad",
    "A laptop whose owner likes very long names, longer than most screens",
    "moonlight-embedded",
)


def fleet(count: int = 7) -> list[dict[str, Any]]:
    return [backend(number) for number in range(count)]


def backend(number: int) -> dict[str, Any]:
    agent, region = AGENTS[number % len(AGENTS)]
    agent += f"-{number // len(AGENTS)}" if number >= len(AGENTS) else ""
    state, trouble = STATES[number % len(STATES)]
    latitude, longitude = PLACES[region]
    there = state != "unhealthy"
    memory = (37.5, 71.2, 12.0, 93.4, 0.0, None, 55.5)[number % 7]
    return {
        "id": f"{agent}/wolf",
        "agent": agent,
        "kind": ("wolf", "sunshine")[number % 2],
        "region": region,
        "latitude": latitude,
        "longitude": longitude,
        "state": state,
        "trouble": trouble,
        "draining": state == "draining",
        "sessions": (2, 3, 1, 8, 0, 0, 1)[number % 7],
        "max_sessions": (4, 6, 4, 8, 16, 4, 2)[number % 7],
        "gpu_memory_percent": memory,
        "rtt_ms": (4.2, 11.8, 3.9, 92.0, 231.4, None, 1.1)[number % 7],
        "apps": list(APPS[: 1 + number % len(APPS)]),
        "gpus": [
            {
                "name": "NVIDIA GeForce RTX 4090",
                "vendor": "nvidia",
                "memory_used_bytes": int((memory or 0) / 100 * 24 * GIB),
                "memory_total_bytes": 24 * GIB,
            }
        ]
        * (there * (1 + number % 2)),
        "machine": {
            "cpu_percent": (23.0, 61.0, 8.0, 97.0, 3.0, 0.0, 41.0)[number % 7],
            "memory_used_bytes": 19 * GIB,
            "memory_total_bytes": 64 * GIB,
            "network_receive_bits_per_s": 3_400_000,
            "network_send_bits_per_s": 84_000_000,
        }
        if there
        else None,
    }


def session(number: int) -> dict[str, Any]:
    agent, region = AGENTS[number % 4]
    state = ("streaming", "streaming", "paused", "streaming", "launched")[number % 5]
    return {
        "id": f"{number:02d}c0ffee{number:02d}",
        "client": f"{number + 10:02x}" * 32,
        "client_name": None if number == 5 else CLIENTS[number % len(CLIENTS)],
        "client_address": ("203.0.113.7", "2001:db8:85a3:8d3:1319:8a2e:370:7348")[number % 2],
        "backend": f"{agent}/wolf",
        "region": region,
        "app": APPS[number % len(APPS)],
        "mode": ("1920x1080x60", "3840x2160x120", "1280x800x60")[number % 3],
        "codec": ("H264", "HEVC", "AV1", None)[number % 4],
        "state": state,
        "video_encrypted_by": ("nobody", "edge")[number % 2],
        "started_at": _ago((754, 8000, 95, 190_000, 8)[number % 5]),
        "rtt_ms": {"client": None, "host": None},
        "retransmissions": {"client": 3, "host": 0},
        "flows": {},
        "rate": (18_000_000, 64_000_000, 0, 9_000_000, 0)[number % 5],
        "lossy": (0, 2, 0, 60, 0)[number % 5],
        "slow": (1.0, 1.5, 1.0, 6.5, 1.0)[number % 5],
    }


def client(number: int) -> dict[str, Any]:
    return {
        "id": f"{number + 10:02x}" * 32,
        "name": CLIENTS[number % len(CLIENTS)],
        "user": ("anna", None, "ben")[number % 3],
        "paired_at": _ago(86_400 * (number + 1) * 3),
        "app": 658_907_695 + number if number < 5 else None,
    }


def pairing(number: int) -> dict[str, Any]:
    place = (
        {"located_by": "database", "region": None, "latitude": 52.5, "longitude": 13.4},
        {"located_by": "edge_region", "region": "frankfurt", "latitude": 50.1, "longitude": 8.7},
    )[number % 2]
    return {
        "id": f"beef000{number}",
        "address": ("198.51.100.24", "192.168.178.31")[number % 2],
        "device": ("Pixel 9", "")[number % 2],
        "asked_at": _ago(47 + 100 * number),
        "place": place,
    }


def events() -> list[dict[str, Any]]:
    told: list[tuple[str, str, dict[str, str]]] = [
        ("backend_state", "living-room/wolf", {"before": "new", "state": "healthy"}),
        ("client_paired", "0a" * 32, {"device": "Anna's phone"}),
        ("session_started", "00c0ffee00", {"app": "Factorio", "backend": "living-room/wolf"}),
        ("launch_without_backend", "0b" * 6, {"reason": "no_backend_has_app"}),
        ("drain_began", "office/wolf", {}),
        (
            "backend_state",
            "sp-1/wolf",
            {"before": "healthy", "state": "unhealthy", "trouble": "tunnel_down"},
        ),
        ("launch_failed", "us-east-gpu-pool/wolf", {"reason": "host_timeout"}),
        ("something_new", "office/wolf", {"colour": "blue"}),
        ("pairing_asked", "beef0000", {"device": "Pixel 9"}),
    ]
    return [
        {"id": number, "at": _ago(9000 - 900 * number), "kind": kind, "subject": subject, **details}
        for number, (kind, subject, details) in reversed(list(enumerate(told, 1)))
    ]


def _ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
