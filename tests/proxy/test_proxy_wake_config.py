"""The [wake] section: what it means, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config import ProxyConfig
from proxy.wake_plan import WakeRule
from settings import ConfigError, load_toml

BY_AGENT = '[[wake.hosts]]\nbackend = "pc/wolf"\nvia_agent = "pi"\nneighbour = "gaming-pc"\n'
BY_WEBHOOK = '[[wake.hosts]]\nbackend = "cloud/wolf"\n'
WEBHOOK = '[wake.webhook]\nurl = "https://hooks.example/wake?key=hunter2"\nsecret_file = "s"\n'


def load(tmp_path: Path, text: str) -> ProxyConfig:
    path = tmp_path / "edge.toml"
    path.write_text(f'hostname = "h"\n{text}')
    return load_toml(path, ProxyConfig, "MOONHOST_PROXY", environ={})


def test_nothing_is_woken_until_hosts_are_listed(tmp_path: Path) -> None:
    wake = load(tmp_path, "").wake
    assert (wake.hosts, wake.webhook, wake.on_launch) == ((), None, True)


def test_a_host_is_woken_by_an_agent_or_by_the_webhook(tmp_path: Path) -> None:
    config = load(tmp_path, BY_AGENT + BY_WEBHOOK + WEBHOOK)
    assert [host.rule for host in config.wake.hosts] == [
        WakeRule("pc/wolf", "pi", "gaming-pc"),  # type: ignore[arg-type]
        WakeRule("cloud/wolf"),  # type: ignore[arg-type]
    ]
    assert config.registry_rules().lasting_agents == {"pc", "cloud"}
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("", (9, 47009, 48002, 48010)),
        # Clients count from the HTTP port, so they also send where no media is.
        (
            "[listen]\nhttp_port = 57989\n",
            (9, 47009, 57998, 57999, 58000, 58002, 58010),
        ),
        ("[listen]\nhttp_port = 65530\n", (9, 47009)),
        ('[listen]\nown_udp_ports = "48001-48003"\n', (9, 47009, 48010)),
        ("[wake]\nports = [48010, 7, 7]\n", (7, 48010)),
        ("[wake]\nports = []\n", ()),
    ],
)
def test_magic_packets_are_awaited_where_clients_send_them(
    tmp_path: Path, text: str, ports: tuple[int, ...]
) -> None:
    assert load(tmp_path, text).wake_ports() == ports


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (BY_WEBHOOK, "wake", "nothing wakes cloud/wolf: set via_agent"),
        (BY_AGENT + WEBHOOK, "wake", "the webhook wakes nothing"),
        (BY_AGENT * 2, "wake", "listed twice in hosts: pc/wolf"),
        (BY_AGENT + BY_AGENT + BY_WEBHOOK, "wake", "pc/wolf; nothing wakes cloud/wolf"),
        (BY_AGENT.replace("via_agent", "#"), "wake.hosts.0", "belong together"),
        (BY_AGENT.replace("pc/wolf", "wolf"), "wake.hosts.0.backend", "agent and host"),
        (BY_AGENT.replace('"pi"', '"p i"'), "wake.hosts.0.via_agent", "1-64 letters"),
        ("[wake]\nports = [9, 47998]\n", "wake", "[47998] in any case"),
        ("[wake]\nports = [9, 48080]\n", "wake", "[48080] in any case"),
        ("[wake]\nports = [0]\n", "wake.ports.0", "greater than"),
        ("[wake]\nmin_interval_s = 1\n", "wake.min_interval_s", "5"),
        ("[wake]\nmac = 'x'\n", "wake.mac", "no such setting"),
        ("[listen]\nhttp_port = 0\n[wake]\nports = [9]\n", "listen.http_port", "greater than"),
    ],
)
def test_one_mistake(tmp_path: Path, text: str, path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    (found,) = caught.value.problems
    assert found.path == path
    assert message in found.message


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://hooks.example/", "use https://"),
        ("ftp://hooks.example/", "as https://host/path"),
        ("https:///wake", "as https://host/path"),
        ("https://host:0/", "as https://host/path"),
        ("https://host:port/", "as https://host/path"),
        ("https://me:hunter2@hooks.example/", "no user or password"),
    ],
)
def test_where_a_webhook_cannot_be(tmp_path: Path, url: str, message: str) -> None:
    text = BY_WEBHOOK + WEBHOOK.replace("https://hooks.example/wake?key=hunter2", url)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    (found,) = caught.value.problems
    assert found.path == "wake.webhook.url"
    assert message in found.message
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_a_webhook_on_this_machine_needs_no_tls(tmp_path: Path, host: str) -> None:
    text = BY_WEBHOOK + WEBHOOK.replace("https://hooks.example", f"http://{host}:8080")
    webhook = load(tmp_path, text).wake.webhook
    assert webhook is not None
    assert webhook.url.startswith("http://")
