from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from backends.geography import ClientPlace, LocatedBy, Place
from proxy.config import Listen, ProxyConfig
from proxy.config_values import MAX_PINNED_NETWORKS, MAX_RTSP_PORTS
from settings import ConfigError, load_toml

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


def load(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> ProxyConfig:
    path = tmp_path / "edge.toml"
    path.write_text(text)
    return load_toml(path, ProxyConfig, "MOONHOST_PROXY", environ=environ or {})


def problems(tmp_path: Path, text: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_a_hostname_is_all_that_must_be_said(tmp_path: Path) -> None:
    config = load(tmp_path, 'hostname = "play.example.org"')
    assert config.listen.http_port == 47989
    assert config.listen.https_port == 47984
    assert config.listen.rtsp_port_range == range(48010, 48074)
    assert config.agents.certificate is None


def test_every_mistake_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        log_level = "chatty"
        unknown = 1
        [listen]
        http_port = 70000
        htps_port = 1
        rtsp_ports = "9-1"
        addresses = ["everywhere"]
        [agents]
        port = "x"
        certificate = "only-one.pem"
        [sessions]
        max_sessions = 0
        launch_window_s = -1
        [limits]
        request_timeout_s = nan
        """,
    )
    assert found.keys() >= {
        "hostname",
        "log_level",
        "unknown",
        "listen.http_port",
        "listen.htps_port",
        "listen.rtsp_ports",
        "listen.addresses.0",
        "agents.port",
        "sessions.max_sessions",
        "sessions.launch_window_s",
        "limits.request_timeout_s",
    }
    assert found["unknown"] == found["listen.htps_port"] == "there is no such setting"
    assert found["hostname"] == "this setting is required"


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("[listen]\nhttp_port = 48011", "listen", "overlap"),
        ("[listen]\nhttps_port = 47989", "listen", "overlap"),
        ("[listen]\nvideo_port = 47999", "listen", "overlap"),
        ('[agents]\nprivate_key = "k.pem"', "agents", "belong together"),
        ("[listen]\naddresses = []", "listen.addresses", "at least 1"),
        ('hostname = "with space"', "hostname", "host name"),
        ('hostname = "müller.example"', "hostname", "host name"),
        ('hostname = ""', "hostname", "at least 1"),
        ("[agents]\naddresses = []", "agents.addresses", "at least 1"),
        ('[agents]\nproxy_protocol_from = ["a"]', "agents.proxy_protocol_from.0", "a network"),
        ('[listen]\nproxy_protocol_from = ["10.1.0.0/8"]', "listen.proxy_protocol_from.0", "10.0."),
        ('[admin]\ncertificate = "c.pem"', "admin", "belong together"),
        ('[admin]\nca_file = "c.pem"', "admin", "of use only with"),
        ("[admin]\nkey_lifetime_days = 0", "admin.key_lifetime_days", "greater than"),
        ('[admin]\naddress = ""', "admin.address", "IP address"),
        ("[selection]\nsticky_ttl_s = inf", "selection.sticky_ttl_s", "finite"),
        ("[selection]\nsticky_ttl_s = 1e18", "selection.sticky_ttl_s", "less than"),
        ("[selection]\ngpu_memory_full = 0.5", "selection", "must not be above"),
        ("[selection]\npolicy = 'best'", "selection.policy", "'geo', 'rtt' or 'load'"),
        ("[users.'a b']", "users.a b.[key]", "for all others"),
        ("[users.anna]\napps = [' ']", "users.anna.apps.0", "title of an app"),
        ("[users.anna]\nregions = ['a b']", "users.anna.regions.0", "name a region"),
    ],
)
def test_one_mistake(tmp_path: Path, text: str, path: str, message: str) -> None:
    base = "" if text.startswith("hostname") else 'hostname = "h"\n'
    found = problems(tmp_path, base + text)
    assert found.keys() == {path}
    assert message in found[path]


def test_a_shared_store_is_named_by_its_url(tmp_path: Path) -> None:
    text = 'hostname = "a"\n[store]\nkind = "redis"\nredis_url = "rediss://edge@10.0.0.5:6380/2"\n'
    secret = {"MOONHOST_PROXY__STORE__REDIS_PASSWORD": "hunter2"}

    store = load(tmp_path, text + 'redis_ca_file = "ca.pem"', secret).store

    assert store.redis_password is not None
    assert store.redis_password.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(store)


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ('kind = "redis"', "store", "needs redis_url"),
        ('redis_url = "redis://a"\nredis_prefix = "b"', "store", "redis_prefix, redis_url: only"),
        ('kind = "redis"\nredis_url = "http://a"', "store.redis_url", "is none of redis://"),
        (
            'kind="redis"\nredis_url="redis://a"\nredis_password="x"\nredis_password_file="y"',
            "store",
            "only one of them",
        ),
        ('kind = "redis"\nredis_url = "redis://a"\nredis_ca_file = "y"', "store", "rediss://"),
    ],
)
def test_a_store_that_cannot_be_meant(tmp_path: Path, text: str, path: str, message: str) -> None:
    assert message in problems(tmp_path, f'hostname = "a"\n[store]\n{text}')[path]


def test_a_password_in_the_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    text = 'hostname = "a"\n[store]\nkind = "redis"\nredis_url = "redis://:hunter2@a"'

    message = problems(tmp_path, text)["store.redis_url"]

    assert "redis_password_file" in message
    assert "MOONHOST_PROXY__STORE__REDIS_PASSWORD" in message
    assert "hunter2" not in message


def test_limits_of_the_registry_come_from_the_file(tmp_path: Path) -> None:
    rules = load(
        tmp_path,
        """
        hostname = "h"
        [agents]
        max_agents = 7
        [selection]
        gpu_memory_crowded = 0.5
        gpu_memory_full = 0.6
        session_gpu_memory_mib = 1024
        absence_s = 60
        """,
    ).registry_rules()
    assert (rules.max_agents, rules.absence_s) == (7, 60)
    assert rules.session_gpu_memory_bytes == 1 << 30
    assert (rules.gpu.crowded, rules.gpu.full) == (0.5, 0.6)


def test_two_listeners_never_share_a_tcp_port_and_each_clash_is_told(tmp_path: Path) -> None:
    found = problems(tmp_path, 'hostname = "h"\n[agents]\nport = 48010\n[admin]\nport = 47984')
    (message,) = found.values()
    assert "agents.port 48010" in message
    assert "admin.port 47984" in message
    found = problems(tmp_path, 'hostname = "h"\n[agents]\nport = 444\n[admin]\nport = 444')
    assert "agents.port and admin.port" in found[""]


@pytest.mark.parametrize("hostname", ["play.example.org", "localhost", "192.0.2.1", "2001:db8::1"])
def test_names_and_addresses_are_hostnames(tmp_path: Path, hostname: str) -> None:
    assert load(tmp_path, f'hostname = "{hostname}"').hostname == hostname


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        'hostname = "from-file"\n[listen]\nhttp_port = 1000',
        {
            "MOONHOST_PROXY__LISTEN__HTTP_PORT": "2000",
            "MOONHOST_PROXY__HOSTNAME": "from-env",
            "MOONHOST_PROXY__LISTEN__ADDRESSES": '["127.0.0.1", "::1"]',
            "MOONHOST_AGENT__HOSTNAME": "of another program",
        },
    )
    assert (config.hostname, config.listen.http_port) == ("from-env", 2000)
    assert config.listen.addresses == ("127.0.0.1", "::1")


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MOONHOST_PROXY__LISTEN__HTTP_PORT"):
        load(tmp_path, 'hostname = "h"', {"MOONHOST_PROXY__LISTEN__HTTP_PORT": "no"})


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("48010", range(48010, 48011)),
        ("48010-48010", range(48010, 48011)),
        (f"1-{MAX_RTSP_PORTS}", range(1, MAX_RTSP_PORTS + 1)),
    ],
)
def test_port_ranges(text: str, ports: range) -> None:
    assert Listen(rtsp_ports=text).rtsp_port_range == ports


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "x", "1-", "-1", "1-x", "0", "0-5", "5-4", "65536", "1-65536", "1--2", "1 - 2"),
        *(f"1-{MAX_RTSP_PORTS + 1}", "1-2-3", "٤٨٠١٠"),
    ],
)
def test_what_is_no_port_range(text: str) -> None:
    with pytest.raises(ValueError, match="rtsp_ports"):
        Listen(rtsp_ports=text)


@given(st.text(max_size=12))
def test_any_text_is_a_port_range_or_refused(text: str) -> None:
    try:
        ports = Listen(rtsp_ports=text).rtsp_port_range
    except ValueError:
        return
    assert 1 <= ports.start < ports.stop <= 65_536


REGIONS = """
hostname = "h"
[geography]
edge_region = "frankfurt"
databases = ["/var/lib/geo/4.mmdb", "/var/lib/geo/6.mmdb"]
[regions.frankfurt]
latitude = 50.11
longitude = 8.68
networks = ["10.1.0.0/16", "fd00:1::/32", "10.9.9.9"]
[regions.virginia]
latitude = 38.95
longitude = -77.45
networks = ["10.1.2.0/24"]
"""


def test_regions_make_the_atlas(tmp_path: Path) -> None:
    config = load(tmp_path, REGIONS)
    assert config.geography.databases == (Path("/var/lib/geo/4.mmdb"), Path("/var/lib/geo/6.mmdb"))
    frankfurt, virginia = Place(50.11, 8.68), Place(38.95, -77.45)
    atlas = config.atlas()
    assert atlas.regions == {"frankfurt": frankfurt, "virginia": virginia}
    for address, by, region, place in (
        ("10.1.1.1", LocatedBy.PINNED_NETWORK, "frankfurt", frankfurt),
        ("10.1.2.1", LocatedBy.PINNED_NETWORK, "virginia", virginia),
        ("10.9.9.9", LocatedBy.PINNED_NETWORK, "frankfurt", frankfurt),
        ("fd00:1::9", LocatedBy.PINNED_NETWORK, "frankfurt", frankfurt),
        ("10.9.9.8", LocatedBy.EDGE_REGION, "frankfurt", frankfurt),
    ):
        assert atlas.locate(address, lambda _: None) == ClientPlace(by, region, place)


def test_without_regions_the_edge_still_may_say_where_it_is(tmp_path: Path) -> None:
    assert load(tmp_path, 'hostname = "h"').atlas().locate("10.0.0.1", lambda _: None) == (
        ClientPlace()
    )
    config = load(tmp_path, 'hostname = "h"\n[geography]\nedge_region = "home"')
    assert config.atlas().locate("10.0.0.1", lambda _: None).region == "home"


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ('"10.1.2.3/16"', '"10.1.0.0/16"'),
        ('"fd00::1/64"', '"fd00::/64"'),
        ('"::ffff:10.1.0.0/112"', 'the IPv4 network "10.1.0.0/16"'),
        ('"::ffff:0:0/96"', 'the IPv4 network "0.0.0.0/0"'),
        ('"10.1.0.0/33"', "write a network"),
        ('"office"', "write a network"),
        ('""', "write a network"),
        ("167837696", "write a network"),
    ],
)
def test_what_is_no_network(tmp_path: Path, network: str, message: str) -> None:
    text = f'hostname = "h"\n[regions.a]\nlatitude = 1\nlongitude = 2\nnetworks = [{network}]'
    found = problems(tmp_path, text)
    assert found.keys() == {"regions.a.networks.0"}
    assert message in found["regions.a.networks.0"]


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (REGIONS.replace('"10.1.2.0/24"', '"10.1.0.0/16"'), "regions", "both frankfurt and vir"),
        (REGIONS.replace('region = "frankfurt"', 'region = "oslo"'), "geography", "[regions]"),
        (
            REGIONS.replace('region = "frankfurt"', 'region = "an oslo"'),
            "geography.edge_region",
            "1-64",
        ),
        (REGIONS.replace("[regions.virginia]", '[regions."a b"]'), "regions.a b.[key]", "1-64"),
        (REGIONS.replace("50.11", "90.5"), "regions.frankfurt.latitude", "90"),
        (REGIONS.replace("8.68", "nan"), "regions.frankfurt.longitude", "finite"),
        (REGIONS.replace("longitude = 8.68", ""), "regions.frankfurt.longitude", "required"),
        (REGIONS.replace("longitude", "width", 1), "regions.frankfurt.width", "no such setting"),
    ],
)
def test_one_mistake_in_the_geography(tmp_path: Path, text: str, path: str, message: str) -> None:
    assert message in problems(tmp_path, text)[path]


def test_pinned_networks_are_bounded(tmp_path: Path) -> None:
    def pinned(count: int) -> str:
        networks = ", ".join(f'"10.{n // 256}.{n % 256}.0/24"' for n in range(count))
        return REGIONS.replace('"10.1.2.0/24"', networks).replace('"10.1.0.0/16", ', "")

    # Frankfurt has two.
    load(tmp_path, pinned(MAX_PINNED_NETWORKS - 2))
    found = problems(tmp_path, pinned(MAX_PINNED_NETWORKS - 1))
    assert str(MAX_PINNED_NETWORKS) in found["regions"]


def model_by_name(annotation: object) -> type[BaseModel] | None:
    """Return what a table of named tables, as ``[regions.<name>]``, has under each name."""
    model = get_args(annotation)[-1] if get_origin(annotation) is dict else None
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        # A section that may be left out is one as well.
        section = next(iter(get_args(field.annotation)), field.annotation)
        if (
            isinstance(section, type)
            and issubclass(section, BaseModel)
            and (section is field.annotation or NoneType in get_args(field.annotation))
        ):
            yield from settings_of(section, f"{prefix}{name}.")
        elif (named := model_by_name(field.annotation)) is not None:
            yield from settings_of(named, f"{prefix}{name}.*.")
        else:
            yield prefix + name


named_tables = {
    f"{name}."
    for name, field in ProxyConfig.model_fields.items()
    if model_by_name(field.annotation) is not None
}


def keys_of(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            shown = "*" if prefix in named_tables else name
            yield from keys_of(value, f"{prefix}{shown}.")
        else:
            yield prefix + name


def with_commented_settings(text: str) -> str:
    return re.sub(r"^# ?([a-z_]+ = |\[(?:regions|users|wake)\.)", r"\1", text, flags=re.MULTILINE)


def test_the_example_can_be_used_as_it_is() -> None:
    assert load_toml(EXAMPLE, ProxyConfig, "MOONHOST_PROXY", environ={}).hostname


def test_the_example_documents_every_setting_and_no_other() -> None:
    tree = tomllib.loads(with_commented_settings(EXAMPLE.read_text()))
    assert set(keys_of(tree)) == set(settings_of(ProxyConfig))


def test_the_example_shows_the_true_defaults() -> None:
    shown = load_toml(EXAMPLE, ProxyConfig, "MOONHOST_PROXY", environ={})
    assert shown == ProxyConfig(hostname=shown.hostname)
