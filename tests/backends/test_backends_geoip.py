"""Client places from MaxMind-format files: all shapes, all damage, and files that change."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import maxminddb
import pytest
import structlog
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends import geo_copy, geoip
from backends.geo_records import names_country, place_in
from backends.geography import Place
from backends.geoip import DatabaseStatus, GeoDatabase
from tests.waiting import until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mmdb_writer import MMDBWriter
    from netaddr import IPSet

LONDON = Place(51.5, -0.125)
TOKYO = Place(35.5, 139.75)
NESTED = {"location": {"latitude": 51.5, "longitude": -0.125}, "country": {"iso_code": "GB"}}
FLAT = {"country_code": "JP", "latitude": 35.5, "longitude": 139.75}
FLAT_TEXT = {"country_code": "JP", "latitude": "35.5", "longitude": "139.75"}
V4 = IPv4Address("81.2.69.160")
V6 = IPv6Address("2a00:1450::1")
ELSEWHERE = IPv4Address("9.9.9.9")
V4_NET, V6_NET = "81.2.69.0/24", "2a00:1450::/32"


def write(
    path: Path,
    networks: Mapping[str, Any],
    ip_version: int = 4,
    database_type: str = "Test-City",
    **more: Any,
) -> Path:
    """Write a database under another name and rename it, as careful updaters do."""
    writer = MMDBWriter(
        ip_version=ip_version, database_type=database_type, ipv4_compatible=ip_version == 6, **more
    )
    for network, record in networks.items():
        writer.insert_network(IPSet([network]), record)
    draft = path.with_name(path.name + ".draft")
    writer.to_db_file(str(draft))
    draft.rename(path)
    return path


def overwrite(path: Path, content: bytes) -> None:
    """Write into the file that is there, which keeps its inode."""
    inode = path.stat().st_ino
    path.write_bytes(content)
    later_ns = path.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(later_ns, later_ns))
    assert path.stat().st_ino == inode


async def loaded(*paths: Path, **limits: Any) -> GeoDatabase:
    database = GeoDatabase(paths, **limits)
    await database.reload_if_changed()
    return database


def only(database: GeoDatabase) -> DatabaseStatus:
    (status,) = database.status()
    return status


@pytest.mark.parametrize(
    ("record", "place"),
    [
        (NESTED, LONDON),
        (FLAT, TOKYO),
        (FLAT_TEXT, TOKYO),
        ({"latitude": 90, "longitude": -180}, Place(90, -180)),
        ({"latitude": 0, "longitude": 9.5}, Place(0, 9.5)),
        ({"country": {"iso_code": "GB"}}, None),
        ({"country_code": "GB"}, None),
        ({"country_code": "GB", "latitude": "", "longitude": ""}, None),
        ({"location": {"time_zone": "Europe/London"}}, None),
        ({"latitude": 0, "longitude": 0.0}, None),
        ({}, None),
    ],
)
def test_the_place_in_a_record(record: object, place: Place | None) -> None:
    assert place_in(record) == place


@pytest.mark.parametrize(
    "record",
    [
        *("GB", 5, None, [NESTED], b"", True),
        *({"location": value} for value in ("51.5,0", None, [51.5, 0], 4)),
        *(
            {"latitude": value, "longitude": 1.0}
            for value in (
                *(None, "", "north", "nan", "inf", "-inf", "9" * 33, "91", "1,5", [], {}, b"1"),
                *(float("nan"), float("inf"), 90.001, -91, 2**128, True, False),
            )
        ),
        {"latitude": 1.0, "longitude": 180.5},
        {"latitude": 1.0},
        {"location": {"longitude": 1.0}},
    ],
)
def test_a_malformed_record_has_no_place(record: object) -> None:
    with pytest.raises(ValueError, match=r"coordinate|table|float"):
        place_in(record)


records = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["location", "latitude", "longitude", "country"]) | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
)


@settings(max_examples=50)
@given(records)
def test_any_record_has_a_place_on_earth_or_none(record: object) -> None:
    assert names_country(record) in {True, False}
    try:
        place = place_in(record)
    except ValueError:
        return
    assert place is None or (abs(place.latitude) <= 90 and abs(place.longitude) <= 180)


@pytest.mark.parametrize("record", [NESTED, {**NESTED, "location": FLAT}, FLAT, FLAT_TEXT])
async def test_an_address_is_looked_up(tmp_path: Path, record: object) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    database = await loaded(write(tmp_path / "a.mmdb", {V4_NET: record}))
    assert database.look_up(V4) == place_in(record)
    assert database.look_up(ELSEWHERE) is None
    status = only(database)
    assert (status.loaded, status.problem, status.database_type) == (True, None, "Test-City")
    assert (status.answered, status.unknown, status.failed) == (1, 1, 0)
    assert status.built_at is not None
    assert before <= status.built_at <= datetime.now(UTC)


async def test_each_address_is_asked_in_the_files_of_its_version(tmp_path: Path) -> None:
    v6 = write(tmp_path / "6.mmdb", {V6_NET: NESTED}, 6)
    v4 = write(tmp_path / "4.mmdb", {V4_NET: FLAT}, 4)
    database = await loaded(v6, v4)
    assert database.look_up(V6) == LONDON
    assert database.look_up(V4) == TOKYO
    assert database.look_up(IPv6Address("2a00:1451::")) is None
    of_v6, of_v4 = database.status()
    assert (of_v6.answered, of_v6.unknown) == (1, 2)
    assert (of_v4.answered, of_v4.unknown) == (1, 0)


async def test_one_file_may_hold_both_versions(tmp_path: Path) -> None:
    database = await loaded(write(tmp_path / "a.mmdb", {V4_NET: NESTED, V6_NET: FLAT}, 6))
    assert database.look_up(V4) == LONDON
    assert database.look_up(V6) == TOKYO


async def test_an_ipv4_address_in_ipv6_clothes_is_ipv4(tmp_path: Path) -> None:
    database = await loaded(write(tmp_path / "a.mmdb", {V4_NET: NESTED}))
    assert database.look_up(ip_address(f"::ffff:{V4}")) == LONDON


async def test_the_first_file_with_coordinates_wins(tmp_path: Path) -> None:
    database = await loaded(
        write(tmp_path / "country.mmdb", {"81.0.0.0/8": {"country_code": "GB"}}),
        write(tmp_path / "broken.mmdb", {V4_NET: {"latitude": "north"}}),
        write(tmp_path / "first.mmdb", {V4_NET: NESTED}),
        write(tmp_path / "second.mmdb", {"81.0.0.0/8": FLAT}),
    )
    assert database.look_up(V4) == LONDON
    assert database.look_up(IPv4Address("81.9.9.9")) == TOKYO
    figures = [(file.answered, file.unknown, file.failed) for file in database.status()]
    assert figures == [(0, 2, 0), (0, 1, 1), (1, 1, 0), (1, 0, 0)]


@pytest.mark.parametrize("record", [{"country": {"iso_code": "GB"}}, {"country_code": "GB"}])
async def test_a_country_database_is_told_of_once(tmp_path: Path, record: object) -> None:
    path = write(tmp_path / "a.mmdb", {V4_NET: record})
    database = await loaded(path)
    with structlog.testing.capture_logs() as events:
        assert [database.look_up(V4) for _ in range(3)] == [None] * 3
        assert [event["event"] for event in events] == ["geo_database_without_coordinates"]
        write(path, {V4_NET: record, "9.0.0.0/8": {}})
        await database.reload_if_changed()
        assert [database.look_up(V4) for _ in range(3)] == [None] * 3
    assert len([event for event in events if event["log_level"] == "warning"]) == 2
    assert only(database).unknown == 2, "each version was read once for this address"


async def test_a_city_database_may_not_know_the_city(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mmdb", {V4_NET: NESTED, "9.0.0.0/8": {"country_code": "US"}})
    database = await loaded(path)
    with structlog.testing.capture_logs() as events:
        assert database.look_up(V4) == LONDON
        assert database.look_up(ELSEWHERE) is None
    assert events == []


async def test_nothing_is_known_before_files_are_read(tmp_path: Path) -> None:
    database = GeoDatabase([write(tmp_path / "a.mmdb", {V4_NET: NESTED})])
    assert database.look_up(V4) is None
    assert (only(database).loaded, only(database).problem) == (False, "not read yet")


async def test_a_missing_file_is_told_of_once_and_taken_up_once_it_appears(tmp_path: Path) -> None:
    path = tmp_path / "a.mmdb"
    database = GeoDatabase([path])
    with structlog.testing.capture_logs() as events:
        for _ in range(3):
            await database.reload_if_changed()
        write(path, {V4_NET: NESTED})
        for _ in range(3):
            await database.reload_if_changed()
        assert database.look_up(V4) == LONDON
        path.unlink()
        for _ in range(3):
            await database.reload_if_changed()
    assert database.look_up(V4) is None
    assert only(database).problem == "there is no such file"
    assert [(event["event"], event.get("reason")) for event in events] == [
        ("geo_database_unusable", "missing"),
        ("geo_database_loaded", None),
        ("geo_database_unusable", "missing"),
    ]


async def test_a_replaced_file_is_read_anew_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mmdb", {V4_NET: NESTED})
    database = await loaded(path)
    with structlog.testing.capture_logs() as events:
        await database.reload_if_changed()
        assert events == []
        write(path, {V4_NET: FLAT}, database_type="New")
        assert database.look_up(V4) == LONDON
        await database.reload_if_changed()
    assert database.look_up(V4) == TOKYO
    assert only(database).database_type == "New"
    assert only(database).answered == 2
    assert [event["event"] for event in events] == ["geo_database_loaded"]


async def test_a_link_to_another_file_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "old", {V4_NET: NESTED})
    write(tmp_path / "new", {V4_NET: FLAT})
    path = tmp_path / "a.mmdb"
    path.symlink_to("old")
    database = await loaded(path)
    (tmp_path / "link").symlink_to("new")
    (tmp_path / "link").rename(path)
    await database.reload_if_changed()
    assert database.look_up(V4) == TOKYO


async def test_a_file_overwritten_with_noise_serves_its_former_content(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mmdb", {V4_NET: NESTED})
    database = await loaded(path)
    with structlog.testing.capture_logs() as events:
        overwrite(path, b"noise")
        for _ in range(3):
            await database.reload_if_changed()
            assert database.look_up(V4) == LONDON
    (event,) = events
    assert (event["reason"], event["former_content_in_use"]) == ("malformed", True)
    assert only(database).loaded
    assert "damaged" in (only(database).problem or "")
    new = write(tmp_path / "b.mmdb", {V4_NET: FLAT}).read_bytes()
    overwrite(path, new)
    await database.reload_if_changed()
    assert database.look_up(V4) == TOKYO
    assert only(database).problem is None


def test_a_process_survives_a_file_cut_short_in_place(tmp_path: Path) -> None:
    """Under a memory map the first lookup after the cut would be a SIGBUS."""
    writer = MMDBWriter(ip_version=4, database_type="Long")
    for number in range(1, 220):
        place = {"latitude": number / 3, "longitude": number / 2, "pad": "x" * 200 + str(number)}
        writer.insert_network(IPSet([f"{number}.0.0.0/8"]), place)
    path = tmp_path / "a.mmdb"
    writer.to_db_file(str(path))
    assert path.stat().st_size > 40_000
    script = """
        import os, sys, trio
        from ipaddress import IPv4Address
        from pathlib import Path
        from backends.geoip import GeoDatabase

        async def main():
            database = GeoDatabase([Path(sys.argv[1])])
            await database.reload_if_changed()
            os.truncate(sys.argv[1], 0)
            places = {database.look_up(IPv4Address(number << 24)) for number in range(1, 220)}
            await database.reload_if_changed()
            print(len(places - {None}), database.look_up(IPv4Address("3.0.0.0")).latitude)

        trio.run(main)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.splitlines()[-1] == "219 1.0"


def damaged_record(path: Path) -> Path:
    """Make the first key of the record a table: what crashes the C reader."""
    write(path, {V4_NET: {"bad": {"x": 1}}, "9.0.0.0/8": FLAT})
    content = path.read_bytes()
    assert content.count(b"\x43bad") == 1
    path.write_bytes(content.replace(b"\x43bad", b"\xe0\x43ba"))
    return path


async def test_a_file_found_damaged_in_a_lookup_is_out_until_it_changes(tmp_path: Path) -> None:
    path = damaged_record(tmp_path / "a.mmdb")
    database = await loaded(path)
    assert database.look_up(ELSEWHERE) == TOKYO
    with structlog.testing.capture_logs() as events:
        assert database.look_up(V4) is None
        for _ in range(3):
            assert database.look_up(ELSEWHERE) is None
            await database.reload_if_changed()
    (event,) = events
    assert (event["reason"], event["former_content_in_use"]) == ("malformed", False)
    status = only(database)
    assert (status.loaded, status.failed, status.answered) == (False, 1, 1)
    assert status.problem == event["why"]
    write(path, {V4_NET: NESTED})
    await database.reload_if_changed()
    assert database.look_up(V4) == LONDON


@pytest.mark.parametrize("cut", [0, 1, 100, -40, -200])
async def test_a_truncated_file_is_malformed(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "a.mmdb", {V4_NET: NESTED})
    path.write_bytes(path.read_bytes()[:cut])
    database = await loaded(path)
    assert database.look_up(V4) is None
    assert (only(database).loaded, only(database).database_type) == (False, None)
    assert only(database).problem == "it is no database in MaxMind's format, or a damaged one"


@pytest.fixture
def with_metadata(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let files say other things about themselves than mmdb_writer would write."""
    real = maxminddb.Reader.metadata

    def change(**changes: object) -> None:
        monkeypatch.setattr(
            maxminddb.Reader,
            "metadata",
            lambda reader: dataclasses.replace(real(reader), **changes),  # type: ignore[arg-type]
        )

    return change


@pytest.mark.parametrize("changes", [{"ip_version": 5}, {"database_type": ["Test-City"]}])
async def test_metadata_that_make_no_sense_are_malformed(
    tmp_path: Path, with_metadata: Callable[..., None], changes: dict[str, Any]
) -> None:
    with_metadata(**changes)
    database = await loaded(write(tmp_path / "a.mmdb", {V4_NET: NESTED}))
    assert not only(database).loaded
    assert database.look_up(V4) is None


@pytest.mark.parametrize("epoch", [2**63, 10**15, "yesterday"])
async def test_a_build_time_out_of_this_world_is_none(
    tmp_path: Path, with_metadata: Callable[..., None], epoch: object
) -> None:
    with_metadata(build_epoch=epoch)
    database = await loaded(write(tmp_path / "a.mmdb", {V4_NET: NESTED}))
    assert (only(database).loaded, only(database).built_at) == (True, None)


async def test_a_malformed_file_is_not_read_again_before_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    real = Path.open

    def count(path: Path, mode: str = "r") -> Any:
        if mode == "rb":
            reads.append(path)
        return real(path, mode)

    path = tmp_path / "a.mmdb"
    path.write_bytes(b"noise")
    monkeypatch.setattr(Path, "open", count)
    database = await loaded(path)
    await database.reload_if_changed()
    assert reads == [path]
    overwrite(path, b"other noise")
    await database.reload_if_changed()
    assert reads == [path, path]


async def test_folders_devices_and_files_too_large_are_told_of(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    large = write(tmp_path / "large.mmdb", {V4_NET: NESTED})
    database = await loaded(tmp_path, tmp_path / "fifo", large, max_database_bytes=100)
    assert [file.problem for file in database.status()] == [
        "it is no regular file",
        "it is no regular file",
        "it has more than 100 bytes",
    ]


async def test_what_cannot_be_read_leaves_the_former_content_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.mmdb", {V4_NET: NESTED})
    database = await loaded(path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    write(path, {V4_NET: FLAT})
    with structlog.testing.capture_logs() as events, monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        await database.reload_if_changed()
        await database.reload_if_changed()
        assert database.look_up(V4) == LONDON
    assert [event["reason"] for event in events] == ["unreadable"]
    assert only(database).problem == "it cannot be read: Permission denied"
    await database.reload_if_changed()
    assert database.look_up(V4) == TOKYO


async def test_a_file_written_to_while_it_is_read_is_read_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.mmdb", {V4_NET: NESTED})
    real = os.fstat
    with monkeypatch.context() as patched:
        calls: list[int] = []

        def fstat(descriptor: int) -> os.stat_result:
            status = real(descriptor)
            if status.st_ino == path.stat().st_ino:
                calls.append(descriptor)
                os.utime(path, ns=(0, len(calls)))
            return status

        patched.setattr(geo_copy.os, "fstat", fstat)
        database = await loaded(path)
    assert only(database).problem == "it is being written; it is read again later"
    await database.reload_if_changed()
    assert database.look_up(V4) == LONDON


async def test_a_read_that_hangs_is_given_up_and_no_second_one_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.mmdb", {V4_NET: NESTED})
    database = await loaded(path, read_timeout_s=0.05)
    go_on, reads = threading.Event(), list[Path]()

    def hang(path: Path, *_: object) -> None:
        reads.append(path)
        go_on.wait(20)

    with monkeypatch.context() as patched:
        patched.setattr(geoip, "read_copy", hang)
        await database.reload_if_changed()
        await database.reload_if_changed()
    try:
        assert reads == [path]
        assert only(database).problem == "reading it took over 0.05 s"
        assert database.look_up(V4) == LONDON
    finally:
        go_on.set()

    async def is_well() -> bool:
        await database.reload_if_changed()
        return only(database).problem is None

    await until(is_well)


async def test_watching_loads_first_and_then_follows_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mmdb", {V4_NET: NESTED})
    database = GeoDatabase([path])
    async with trio.open_nursery() as nursery:
        await nursery.start(database.watch, 0.01)
        assert database.look_up(V4) == LONDON
        write(path, {V4_NET: FLAT})
        await until(lambda: database.look_up(V4) == TOKYO)
        nursery.cancel_scope.cancel()


noise_settings = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@noise_settings
@given(
    noise=st.binary(max_size=300),
    changes=st.none()
    | st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
)
def test_noise_never_raises(
    tmp_path: Path, noise: bytes, changes: list[tuple[int, int]] | None
) -> None:
    """Noise alone, noise behind the marker of metadata, and a valid file with bytes changed."""
    whole = tmp_path / "whole.mmdb"
    if not whole.exists():
        write(whole, {V4_NET: NESTED, "9.0.0.0/8": FLAT}, languages=["en"])
    path = tmp_path / "a.mmdb"
    if changes is None:
        path.write_bytes(noise[:100] + b"\xab\xcd\xefMaxMind.com" + noise[100:])
    elif not changes:
        path.write_bytes(noise)
    else:
        content = bytearray(whole.read_bytes())
        for at, value in changes:
            # The last kilobyte, which holds the data and the metadata, and the tree's beginning.
            content[(at - 700) % len(content)] = value
        path.write_bytes(content)

    async def look() -> None:
        database = await loaded(path)
        for address in (V4, ELSEWHERE, V6, IPv4Address("200.0.0.1")):
            place = database.look_up(address)
            assert place is None or abs(place.latitude) <= 90
        assert only(database).path == path

    with structlog.testing.capture_logs():
        trio.run(look)


async def test_an_address_that_comes_again_is_not_read_again_until_a_file_changes(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.mmdb", {V4_NET: NESTED})
    database = await loaded(path)
    assert [database.look_up(V4) for _ in range(3)] == [LONDON] * 3
    assert only(database).answered == 1
    path.unlink()
    await database.reload_if_changed()
    assert database.look_up(V4) is None


async def test_other_files_take_the_place_of_these_without_a_moment_between(
    tmp_path: Path,
) -> None:
    kept = write(tmp_path / "kept", {V6_NET: FLAT}, ip_version=6)
    database = await loaded(write(tmp_path / "old", {V4_NET: NESTED}), kept)
    assert (database.look_up(V4), database.look_up(V6)) == (LONDON, TOKYO)
    answered = database.status()[1].answered

    use = await database.prepare([kept, write(tmp_path / "new", {V4_NET: FLAT})])
    assert database.look_up(V4) == LONDON
    use()

    assert (database.look_up(V4), database.look_up(V6)) == (TOKYO, TOKYO)
    assert [status.path.name for status in database.status()] == ["kept", "new"]
    assert database.status()[0].answered > answered


async def test_files_that_stay_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "kept", {V4_NET: NESTED})
    database = await loaded(path)
    monkeypatch.setattr(geoip, "read_copy", None)
    (await database.prepare([path]))()
    assert database.look_up(V4) == LONDON
