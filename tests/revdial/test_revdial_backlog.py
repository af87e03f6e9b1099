"""A backlog sends fresh batches in order, drops stale and surplus ones, and counts all of it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from revdial.backlog import Backlog, BacklogLimits, Drop, limits_of

steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 400)),
        st.tuples(st.just("pop"), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 80)),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(steps, st.sampled_from([None, 50.0]), st.integers(100, 1000))
def test_every_batch_is_sent_fresh_and_in_order_or_dropped_and_counted(
    plan: list[tuple[str, int]], limit_ms: float | None, max_bytes: int
) -> None:
    backlog: Backlog[int] = Backlog(BacklogLimits(limit_ms, max_bytes))
    now_ms, pushed, arrivals, sent = 0, 0, {}, []
    for step, amount in plan:
        if step == "wait":
            now_ms += amount
        elif step == "push":
            backlog.push(pushed, amount, 3, now_ms / 1000)
            arrivals[pushed] = now_ms
            pushed += 1
        elif (batch := backlog.pop(now_ms / 1000)) is not None:
            sent.append(batch)
            assert limit_ms is None or now_ms - arrivals[batch] <= limit_ms + 1e-6
        assert backlog.size_bytes <= max_bytes
        assert backlog.datagrams == 3 * len(backlog)
    assert sent == sorted(sent)
    assert 3 * (len(sent) + len(backlog)) + backlog.dropped.total() == 3 * pushed
    assert limit_ms is not None or backlog.dropped[Drop.STALE] == 0


def test_what_survives_is_sent_at_once() -> None:
    backlog: Backlog[str] = Backlog(limits_of("video"))
    backlog.push("old", 10, 2, 1.000)
    backlog.push("new", 10, 3, 1.040)
    assert backlog.age_s(1.060) > 0.05
    assert backlog.pop(1.060) == "new"
    assert backlog.pop(1.060) is None
    assert backlog.dropped == {Drop.STALE: 2}
    assert backlog.age_s(2.0) == 0


def test_a_newer_batch_takes_the_place_of_the_oldest() -> None:
    backlog: Backlog[str] = Backlog(BacklogLimits(None, 20))
    backlog.push("a", 10, 1, 0)
    backlog.push("b", 10, 1, 0)
    backlog.push("c", 10, 1, 0)
    assert backlog.dropped == {Drop.OVERFULL: 1}
    assert [backlog.pop(9), backlog.pop(9)] == ["b", "c"]


def test_each_kind_of_flow_has_its_limit() -> None:
    assert [limits_of(flow).limit_ms for flow in ("video", "audio", "control")] == [50, 100, None]
