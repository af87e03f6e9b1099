"""The agent's configuration file, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import AgentConfig, HostConfig, load, parse_port_ranges, token_of
from settings import ConfigError

MINIMAL = """
[edge]
url = "wss://play.example.org"
token_file = "/run/secrets/token"
[agent]
id = "frankfurt-1"
region = "eu-central"
[[hosts]]
name = "wolf"
"""


def loaded(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> AgentConfig:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return load(path, environ=environ or {})


def complaints(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def test_a_short_file_is_enough(tmp_path: Path) -> None:
    config = loaded(tmp_path, MINIMAL)
    assert config.agent.region == "eu-central"
    assert config.hosts[0].https_port == 47984
    assert config.hosts[0].takes_source_addresses
    assert config.hosts[0].udp_port_ranges == (range(47998, 48011), range(48100, 48300))


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    environ = {
        "MOONHOST_AGENT__EDGE__URL": "wss://other.example.org:8443",
        "MOONHOST_AGENT__HOSTS__0__MAX_SESSIONS": "9",
    }
    config = loaded(tmp_path, MINIMAL, environ)
    assert config.edge.url == "wss://other.example.org:8443"
    assert config.hosts[0].max_sessions == 9


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = """
[edge]
url = "https://play.example.org"
[agent]
id = "frankfurt 1"
latitude = 91
[[hosts]]
name = "a/b"
address = "host.example.org"
udp_ports = "48010-47998"
kind = "windows"
apps = [{title = "", id = 0}]
"""
    paths = [complaint.partition(":")[0] for complaint in complaints(tmp_path, text)]
    assert sorted(paths) == [
        "agent.id",
        "agent.latitude",
        "agent.region",
        "edge.url",
        "hosts.0.address",
        "hosts.0.apps.0.id",
        "hosts.0.apps.0.title",
        "hosts.0.kind",
        "hosts.0.name",
        "hosts.0.udp_ports",
    ]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("wss://play", "ws://play", "edge.url: use wss://"),
        ("wss://play", "wss://me:pw@play", "edge.url: write the edge as"),
        ("wss://play.example.org", "wss://", "edge.url: write the edge as"),
        ("token_file", "#", "edge: set token_file"),
        ('[[hosts]]\nname = "wolf"', "", "hosts: an agent has 1 to 64 hosts"),
        ("[agent]", "hosts = []\n[agent]", "edge.hosts: there is no such setting"),
        ("[[hosts]]", '[[hosts]]\nname = "wolf"\n[[hosts]]', "hosts: two hosts have the same name"),
    ],
)
def test_what_is_refused(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    (found,) = complaints(tmp_path, MINIMAL.replace(old, new))
    assert found.startswith(complaint)


@pytest.mark.parametrize(
    ("settings", "gpus", "reads"),
    [
        ("", None, True),
        ('gpus = ["00000000:01:00.0", "card1"]', ("0000:01:00.0", "card1"), True),
        ("gpus = []", (), False),
        ('gpu = { name = "Arc A770" }', None, False),
    ],
)
def test_a_hosts_gpus_are_read_or_stated(
    tmp_path: Path, settings: str, gpus: tuple[str, ...] | None, reads: bool
) -> None:
    host = loaded(tmp_path, f"{MINIMAL}{settings}\n").hosts[0]
    assert host.gpus == gpus
    assert host.reads_gpus is reads


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ('gpus = ["RTX 4090"]', "hosts.0.gpus.0: name a GPU by its PCI address"),
        ('gpus = ["card0"]\ngpu = { name = "A770" }', "hosts.0: set gpu (stated, not read) or"),
        (f"gpus = {['card0'] * 17}", "hosts.0.gpus: "),
    ],
)
def test_gpus_that_are_refused(tmp_path: Path, settings: str, complaint: str) -> None:
    (found,) = complaints(tmp_path, f"{MINIMAL}{settings}\n")
    assert found.startswith(complaint)


SUNSHINE = {
    "api_username": '"me"',
    "api_password_file": '"/run/secrets/password"',
    "api_certificate": '"/etc/sunshine.pem"',
    "identity_file": '"/var/lib/agent.pem"',
}


def host_text(kind: str, settings: dict[str, str]) -> str:
    lines = [f'kind = "{kind}"', *(f"{name} = {value}" for name, value in settings.items())]
    return MINIMAL + "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("settings", "ports"),
    [
        ("", (47989, 47984, 48010, 47990)),
        ("base_port = 40000\n", (40000, 39995, 40021, 40001)),
        ("base_port = 40000\nrtsp_port = 1\napi_port = 2\n", (40000, 39995, 1, 2)),
    ],
)
def test_a_sunshines_ports_follow_from_one(
    tmp_path: Path, settings: str, ports: tuple[int, ...]
) -> None:
    host = loaded(tmp_path, host_text("sunshine", {}) + settings).hosts[0]
    assert (host.http_port, host.https_port, host.rtsp_port, host.api_port) == ports
    video = host.http_port + 9
    assert host.udp_port_ranges == (range(video, video + 3),)
    assert host.max_sessions == 1
    assert not host.has_api_settings


def test_what_only_one_kind_of_host_has_is_told_beside_other_mistakes(tmp_path: Path) -> None:
    wolf = {**SUNSHINE, "base_port": "40000", "api_port": "2", "max_sessions": "0"}
    assert [text.partition(":")[0] for text in complaints(tmp_path, host_text("wolf", wolf))] == [
        "hosts.0.base_port",
        "hosts.0.api_port",
        "hosts.0.api_username",
        "hosts.0.api_password_file",
        "hosts.0.api_certificate",
        "hosts.0.identity_file",
        "hosts.0.max_sessions",
    ]
    sunshine = {"wolf_socket": '"/w.sock"', "max_sessions": "2", "base_port": "80"}
    found = complaints(tmp_path, host_text("sunshine", sunshine))
    assert [text.partition(":")[0] for text in found] == [
        "hosts.0.base_port",
        "hosts.0.wolf_socket",
        "hosts.0.max_sessions",
    ]
    assert 'only a host of kind "wolf" has this: a Sunshine is asked over api_port' in found[1]


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ("api_username", "api_username"),
        ("api_password_file", "one of api_password_file and, in the environment, api_password"),
        ("api_certificate", "api_certificate"),
        ("identity_file", "identity_file or apps"),
    ],
)
def test_a_sunshines_api_is_configured_whole(tmp_path: Path, left_out: str, said: str) -> None:
    settings = {name: value for name, value in SUNSHINE.items() if name != left_out}
    (found,) = complaints(tmp_path, host_text("sunshine", settings))
    assert found == f"hosts.0: for Sunshine's API also set {said}"


def test_all_that_a_sunshines_api_lacks_is_told(tmp_path: Path) -> None:
    only = {"api_username": '"me"'}
    (found,) = complaints(tmp_path, host_text("sunshine", only))
    assert found.count(";") == 2


@pytest.mark.parametrize("name", ["", "a:b", "a" * 129, "a\\nb"])
def test_names_that_basic_authentication_cannot_tell(tmp_path: Path, name: str) -> None:
    text = host_text("sunshine", {**SUNSHINE, "api_username": f'"{name}"'})
    (found,) = complaints(tmp_path, text)
    assert found.startswith("hosts.0.api_username: use 1-128 printable characters")


def test_a_sunshines_password_may_come_from_the_environment(tmp_path: Path) -> None:
    settings = {name: text for name, text in SUNSHINE.items() if name != "api_password_file"}
    text = host_text("sunshine", settings)
    secret = {"MOONHOST_AGENT__HOSTS__0__API_PASSWORD": "hunter2"}
    config = loaded(tmp_path, text, secret)
    assert config.hosts[0].has_api_settings
    assert "hunter2" not in repr(config)
    with pytest.raises(ConfigError, match="one of api_password_file and") as caught:
        loaded(tmp_path, host_text("sunshine", SUNSHINE), secret)
    assert "hunter2" not in str(caught.value)


def test_the_example_shows_both_kinds_of_hosts(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "agent.example.toml").read_text()
    assert [host.kind for host in loaded(tmp_path, text).hosts] == ["wolf"]
    before, _, rest = text.partition("# [[hosts]]\n")
    section, end, after = rest.partition("# Machines on")
    settings = "".join(
        line.removeprefix("# ") + "\n" for line in section.splitlines() if " = " in line
    )
    hosts = loaded(tmp_path, f"{before}[[hosts]]\n{settings}{end}{after}").hosts
    assert [host.kind for host in hosts] == ["wolf", "sunshine"]
    assert hosts[1].has_api_settings


def test_an_agent_without_hosts_is_none(tmp_path: Path) -> None:
    text = "hosts = []\n" + MINIMAL.replace('[[hosts]]\nname = "wolf"', "")
    assert complaints(tmp_path, text) == [
        "hosts: an agent has 1 to 64 hosts, or neighbours to wake"
    ]


NEIGHBOUR = '[[neighbours]]\nname = "pc"\nmac = "AA-BB-CC-DD-EE-FF"\n'


def test_an_agent_may_have_neighbours_and_no_hosts(tmp_path: Path) -> None:
    config = loaded(tmp_path, MINIMAL.replace('[[hosts]]\nname = "wolf"\n', NEIGHBOUR))
    assert config.hosts == ()
    (neighbour,) = config.neighbours
    assert neighbour.mac_bytes == bytes.fromhex("aabbccddeeff")
    assert (str(neighbour.broadcast), neighbour.port) == ("255.255.255.255", 9)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (NEIGHBOUR + NEIGHBOUR, "neighbours: two neighbours have the same name"),
        (NEIGHBOUR.replace("FF", "FG"), "neighbours.0.mac: A hardware address is written"),
        (NEIGHBOUR.replace("AA", "01"), "neighbours.0.mac: That hardware address is not"),
        (NEIGHBOUR + 'broadcast = "ff02::1"', "neighbours.0.broadcast: write an IPv4"),
        (NEIGHBOUR + 'broadcast = "lan"', "neighbours.0.broadcast: write an IP address"),
        (NEIGHBOUR + "port = 0", "neighbours.0.port: "),
        (NEIGHBOUR * 65, "neighbours: "),
    ],
)
def test_neighbours_that_are_refused(tmp_path: Path, settings: str, complaint: str) -> None:
    (found,) = complaints(tmp_path, f"{MINIMAL}{settings}\n")
    assert found.startswith(complaint)


def test_two_tokens_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only one of them") as caught:
        loaded(tmp_path, MINIMAL, {"MOONHOST_AGENT__EDGE__TOKEN": "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_an_edge_on_this_machine_needs_no_tls(tmp_path: Path, host: str) -> None:
    text = MINIMAL.replace("wss://play.example.org", f"ws://{host}:8080")
    assert loaded(tmp_path, text).edge.url.startswith("ws://")


@pytest.mark.parametrize(
    ("address", "own_addresses"),
    [("127.0.0.11", True), ("192.168.1.5", False), ("::1", False), ("fe80::1", False)],
)
def test_only_hosts_on_ipv4_loopback_see_source_addresses(
    address: str, own_addresses: bool
) -> None:
    host = HostConfig.model_validate({"name": "wolf", "address": address})
    assert host.takes_source_addresses is own_addresses


def test_the_token_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    without = MINIMAL.replace('token_file = "/run/secrets/token"', "")
    config = loaded(tmp_path, without, {"MOONHOST_AGENT__EDGE__TOKEN": "hunter2"})
    assert token_of(config.edge) == "hunter2"
    assert "hunter2" not in repr(config)
    secret = tmp_path / "token"
    secret.write_text("hunter3\n")
    secret.chmod(0o600)
    config = loaded(tmp_path, MINIMAL.replace("/run/secrets/token", str(secret)))
    assert token_of(config.edge) == "hunter3"


@pytest.mark.parametrize(
    "text", ["", "-", "1-", "-1", "0", "65536", "1,,2", "2-1", "1-2-3", "a", "\u0661", "9" * 5000]
)
def test_ranges_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="port"):
        parse_port_ranges(text)


@given(st.lists(st.tuples(st.integers(1, 65535), st.integers(0, 999)), min_size=1, max_size=5))
def test_ranges_hold_what_they_say(pairs: list[tuple[int, int]]) -> None:
    spans = [(low, min(65535, low + extra)) for low, extra in pairs]
    text = " , ".join(f"{low}-{high}" if high > low else str(low) for low, high in spans)
    assert parse_port_ranges(text) == tuple(range(low, high + 1) for low, high in spans)


@pytest.mark.parametrize(
    ("settings", "own"),
    [
        ("", True),
        ('address = "127.0.0.9"', True),
        ('source_addresses = "never"', False),
        ('source_addresses = "never"\nseen_as = "172.17.0.1"', False),
        ('address = "10.0.0.5"', False),
        ('address = "10.0.0.5"\nseen_as = "10.0.0.1"', False),
        ('address = "::1"', False),
    ],
)
def test_sessions_have_addresses_of_their_own_only_where_the_host_can_see_them(
    tmp_path: Path, settings: str, own: bool
) -> None:
    assert loaded(tmp_path, MINIMAL + settings).hosts[0].takes_source_addresses is own


def test_a_host_sees_an_agent_as_one_address_or_as_many(tmp_path: Path) -> None:
    (complaint,) = complaints(tmp_path, MINIMAL + 'seen_as = "172.17.0.1"')
    assert 'source_addresses = "never"' in complaint
