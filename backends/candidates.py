"""Who can take a launch of which app in which region, kept in order as backends change.

A decision must not look at every backend: with 10,000 of them that would take milliseconds. So what
does not depend on who asks is settled when a backend changes (whether it can take anything, and
how loaded it is), and a decision looks at the first of each region.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple

from backends.apps import AppOffers
from backends.geography import ClientPlace, Place
from backends.model import Backend, BackendId, Health


class Exclusion(StrEnum):
    """Why a backend cannot take a launch; the first that holds, in this order."""

    NO_SUCH_APP = "no_such_app"
    REGION_NOT_ALLOWED = "region_not_allowed"
    """The user may not use it."""
    TRIED = "tried"
    """It has just failed to start this very launch."""
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"
    FULL = "full"
    GPU_FULL = "gpu_full"


class Room(IntEnum):
    """How much room a backend's GPU has; the roomiest first."""

    PLENTY = 0
    UNKNOWN = 1
    CROWDED = 2
    """Passed over while another region has room."""


class Load(NamedTuple):
    """How loaded a backend is; sorts the least loaded first, and by id at last."""

    room: Room
    gpu_percent: int
    """Shares that differ by less say nothing: then the number of sessions decides."""
    sessions: int
    id: BackendId


@dataclass(frozen=True, slots=True)
class GpuLimits:
    """Shares of GPU memory, 0-1."""

    crowded: float = 0.90
    """Above this a backend is skipped while another region has room."""
    full: float = 0.97
    """Nothing is started where it would bring the memory in use above this."""


def exclusion(backend: Backend, limits: GpuLimits) -> Exclusion | None:
    """Tell why a backend can take no launch at all, whoever asks; None if it can."""
    if backend.health is Health.UNHEALTHY:
        return Exclusion.UNHEALTHY
    if backend.draining:
        return Exclusion.DRAINING
    if backend.sessions >= backend.max_sessions:
        return Exclusion.FULL
    after = backend.gpu_memory_share_after
    if after is not None and after > limits.full:
        return Exclusion.GPU_FULL
    return None


def load(backend: Backend, limits: GpuLimits) -> Load:
    """Tell how loaded a backend is."""
    share = backend.gpu_memory_share
    if share is None:
        return Load(Room.UNKNOWN, 0, backend.sessions, backend.id)
    room = Room.CROWDED if share > limits.crowded else Room.PLENTY
    return Load(room, round(100 * share), backend.sessions, backend.id)


class Pool:
    """The backends of one region that have one app."""

    __slots__ = ("_closed", "_open")

    def __init__(self) -> None:
        self._open: list[Load] = []
        self._closed: Counter[Exclusion] = Counter()

    @property
    def closed(self) -> Counter[Exclusion]:
        """How many can take no launch, by reason."""
        return self._closed

    def first(self, excluded: Collection[BackendId] = ()) -> Load | None:
        """Give the least loaded backend that can take a launch and is not among `excluded`."""
        if not excluded:
            return self._open[0] if self._open else None
        return next((entry for entry in self._open if entry.id not in excluded), None)

    def add(self, entry: Load | Exclusion) -> None:
        """Take in a backend by its load, or by why it can take nothing."""
        if isinstance(entry, Load):
            insort(self._open, entry)
        else:
            self._closed[entry] += 1

    def discard(self, entry: Load | Exclusion) -> None:
        """Take a backend out that was added as `entry`, the same or one equal to it."""
        if isinstance(entry, Load):
            del self._open[bisect_left(self._open, entry)]
        else:
            self._closed[entry] -= 1

    def move(self, old: Load | Exclusion, new: Load | Exclusion) -> None:
        """Do both; one call, since a backend that changes is in a pool for each of its apps."""
        if isinstance(old, Load):
            del self._open[bisect_left(self._open, old)]
        else:
            self._closed[old] -= 1
        self.add(new)

    def __bool__(self) -> bool:
        return bool(self._open) or any(self._closed.values())


_NONE: Mapping[str, Pool] = {}
max_known_places = 2_048
"""Places of clients whose distances from all regions are kept: some 4 KB each with 50 regions."""


class Candidates:
    """All backends as they are now; changed by the registry, read by selection."""

    def __init__(self, backends: Iterable[Backend] = (), limits: GpuLimits | None = None) -> None:
        self.limits = limits or GpuLimits()
        self._backends: dict[BackendId, Backend] = {}
        self._entries: dict[BackendId, Load | Exclusion] = {}
        self._pools: dict[str, dict[str, Pool]] = {}
        self._pools_of: dict[BackendId, tuple[Pool, ...]] = {}
        self._places: dict[str, list[tuple[BackendId, Place]]] = {}
        self._regions: Counter[str] = Counter()
        self._nearest: dict[ClientPlace, tuple[tuple[float, str], ...]] = {}
        self.apps_version = 0
        """Changes whenever the apps on offer may have changed."""
        for backend in backends:
            self.put(backend)

    def __iter__(self) -> Iterator[Backend]:
        """Give all backends, by id."""
        return iter(sorted(self._backends.values(), key=lambda backend: backend.id))

    def __len__(self) -> int:
        return len(self._backends)

    def get(self, identifier: BackendId) -> Backend | None:
        """Find a backend."""
        return self._backends.get(identifier)

    def apply(self, limits: GpuLimits) -> None:
        """Weigh all backends by other limits."""
        self.limits = limits
        for backend in tuple(self._backends.values()):
            self.put(backend)

    def at(self, load: Load) -> Backend:
        """Give the backend that a pool names."""
        return self._backends[load.id]

    def pools(self, normalised_title: str) -> Mapping[str, Pool]:
        """Give each region's pool of those that have an app; regions without one are left out."""
        return self._pools.get(normalised_title, _NONE)

    def place(self, region: str) -> Place | None:
        """Tell where a region is: where its first backend by id is that knows."""
        places = self._places.get(region)
        return places[0][1] if places else None

    def nearest_first(self, client: ClientPlace) -> Sequence[tuple[float, str]]:
        """Give all regions by their distance from a client in kilometres, and then by name."""
        nearest = self._nearest.get(client)
        if nearest is None:
            if len(self._nearest) >= max_known_places:
                del self._nearest[next(iter(self._nearest))]
            nearest = self._nearest[client] = tuple(
                sorted((client.distance_km(each, self.place(each)), each) for each in self._regions)
            )
        return nearest

    def exclusion(self, identifier: BackendId) -> Exclusion | None:
        """Tell why a backend that is here can take no launch at all; None if it can."""
        entry = self._entries[identifier]
        return entry if isinstance(entry, Exclusion) else None

    def put(self, backend: Backend) -> None:
        """Take in a backend, in place of what it was."""
        entry = exclusion(backend, self.limits) or load(backend, self.limits)
        before = self._backends.get(backend.id)
        self._backends[backend.id] = backend
        if before is not None and _standing(before) == _standing(backend):
            self._move(backend.id, self._entries[backend.id], entry)
        else:
            if before is not None:
                self._leave_pools(before)
            self._enter_pools(backend, entry)
        self._entries[backend.id] = entry

    def remove(self, identifier: BackendId) -> Backend:
        """Take out a backend that is here, and return what it was."""
        backend = self._backends.pop(identifier)
        self._leave_pools(backend)
        del self._entries[identifier]
        return backend

    def _move(self, identifier: BackendId, old: Load | Exclusion, new: Load | Exclusion) -> None:
        if old != new:
            for pool in self._pools_of[identifier]:
                pool.move(old, new)

    def _enter_pools(self, backend: Backend, entry: Load | Exclusion) -> None:
        self.apps_version += 1
        self._nearest.clear()
        self._regions[backend.region] += 1
        if backend.place is not None:
            insort(self._places.setdefault(backend.region, []), (backend.id, backend.place))
        self._pools_of[backend.id] = pools = tuple(
            self._pools.setdefault(title, {}).setdefault(backend.region, Pool())
            for title in backend.apps.titles
        )
        for pool in pools:
            pool.add(entry)

    def _leave_pools(self, backend: Backend) -> None:
        self.apps_version += 1
        self._nearest.clear()
        self._regions[backend.region] -= 1
        if not self._regions[backend.region]:
            del self._regions[backend.region]
        del self._pools_of[backend.id]
        if backend.place is not None:
            places = self._places[backend.region]
            places.remove((backend.id, backend.place))
            if not places:
                del self._places[backend.region]
        entry = self._entries[backend.id]
        for title in backend.apps.titles:
            regions = self._pools[title]
            regions[backend.region].discard(entry)
            if not regions[backend.region]:
                del regions[backend.region]
            if not regions:
                del self._pools[title]


def _standing(backend: Backend) -> tuple[str, Place | None, AppOffers]:
    """Give what says which pools a backend is in."""
    return backend.region, backend.place, backend.apps
