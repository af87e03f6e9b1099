"""Which GPUs there are, and which of them a host uses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.gpus import Gpu, Selection, carry, gpu_id, max_gpus, merge, report_of, select
from revdial.messages import GpuReport, max_count

GIB = 1 << 30
UUID = "gpu-8f6d2a10-0c3e-4b57-9a11-22d7e5b0c9f4"


def gpu(address: str, total: int | None, *, used: int | None = None, driver: str = "") -> Gpu:
    return Gpu((address,), "GPU", driver, driver, used, total)


RTX = Gpu(("0000:01:00.0", UUID), "RTX 4090", "nvidia", "nvidia", 1 * GIB, 24 * GIB)
INTEGRATED = gpu("0000:0c:00.0", GIB // 2, used=GIB // 2, driver="amdgpu")


@pytest.mark.parametrize(
    ("text", "one_way"),
    [
        ("0000:01:00.0", "0000:01:00.0"),
        ("00000000:0A:00.1", "0000:0a:00.1"),
        ("0a:00.0", "0000:0a:00.0"),
        ("10000:01:00.0", "10000:01:00.0"),
        (UUID.upper(), UUID),
        ("card1", "card1"),
        ("/dev/dri/renderD128", "renderD128"),
    ],
)
def test_a_gpu_is_written_one_way(text: str, one_way: str) -> None:
    assert gpu_id(text) == one_way
    assert gpu_id(one_way) == one_way


@pytest.mark.parametrize(
    "text",
    ["", "0", "RTX 4090", "01:00", "01:00.8", "card1-DP-1", "RENDERD128", "MIG-1", "/dev/nvidia0"],
)
def test_what_names_no_gpu(text: str) -> None:
    with pytest.raises(ValueError, match="PCI address"):
        gpu_id(text)


@given(st.text(max_size=40))
def test_any_text_names_a_gpu_or_not(text: str) -> None:
    try:
        one_way = gpu_id(text)
    except ValueError:
        return
    assert gpu_id(one_way) == one_way


def test_a_gpu_that_two_readers_know_is_one() -> None:
    listed = Gpu(("0000:01:00.0", "card0", "renderD128"), "AD102", "nvidia", "nvidia")
    assert merge([listed, INTEGRATED], [RTX]) == (
        Gpu(
            ("0000:01:00.0", UUID, "card0", "renderD128"),
            "RTX 4090",
            "nvidia",
            "nvidia",
            1 * GIB,
            24 * GIB,
        ),
        INTEGRATED,
    )


def test_what_the_better_reader_does_not_tell_the_other_may() -> None:
    nameless = Gpu(RTX.ids, "")
    assert merge([RTX], [nameless]) == (RTX,)


def test_after_a_failure_a_gpu_is_what_it_was_but_for_the_used_memory() -> None:
    (kept,) = carry([RTX], [])
    assert (kept.memory_used_bytes, kept.memory_total_bytes) == (None, 24 * GIB)
    other = gpu("0000:02:00.0", 8 * GIB, used=1)
    assert carry([RTX, other], [RTX]) == (RTX, gpu("0000:02:00.0", 8 * GIB))


def test_a_host_uses_the_gpus_with_the_most_memory() -> None:
    intel = gpu("0000:00:02.0", None, driver="i915")
    assert select([INTEGRATED, RTX, intel], None).gpus == (RTX,)
    twin = gpu("0000:02:00.0", 24 * GIB - (8 << 20))
    assert select([RTX, INTEGRATED, twin], None).gpus == (RTX, twin)
    assert select([intel], None).gpus == (intel,)
    assert select([], None) == Selection(())


def test_an_integrated_gpu_does_not_stand_in_for_one_whose_driver_failed() -> None:
    failed = gpu("0000:01:00.0", None, driver="nvidia")
    assert select([INTEGRATED, failed], None).gpus == (failed,)
    # One of two that is lost leaves the other to tell.
    assert select([INTEGRATED, failed, RTX], None).gpus == (RTX,)


def test_a_host_uses_the_gpus_it_names() -> None:
    everything = [INTEGRATED, RTX]
    assert select(everything, [UUID, RTX.id]) == Selection((RTX,))
    assert select(everything, [INTEGRATED.id, "card7", "card7"]) == Selection(
        (INTEGRATED,), ("card7",)
    )
    assert select(everything, []) == Selection(())


def test_no_more_gpus_are_chosen_than_a_report_takes() -> None:
    many = [gpu(f"0000:{number:02x}:00.0", GIB) for number in range(max_gpus + 1)]
    assert select(many, None).gpus == tuple(many[:max_gpus])


def test_a_report_holds_only_what_a_peer_accepts() -> None:
    assert report_of(RTX) == GpuReport("RTX 4090", "nvidia", 1 * GIB, 24 * GIB)
    wild = Gpu(("card0",), "\x1b[31m" + "x" * 200, "a\nb", "", -1, max_count + 1)
    report = report_of(wild)
    assert report == GpuReport("?[31m" + "x" * 59, "a?b")
    assert report_of(Gpu(("card0",), "  ")).name == "card0"
