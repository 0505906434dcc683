"""Fixtures for tests of programs that use `bms`: a simulated world, and a mesh in it. They need pytest-trio.

    pytest_plugins = ["bms.testing.fixtures"]           # in the top conftest.py

    async def test_a_write_survives_a_crash(mesh_cluster):
        a, b, c = await mesh_cluster(3, loss=0.1)
        …

    sim_clock       virtual time, and an order of tasks that follows from the seed
    sim_seed        the seed, 0; `@pytest.mark.sim_seeds(20)` runs a test with each of 20
    sim_world       a `SimWorld` without hosts
    mesh_cluster    `await mesh_cluster(count, loss=0, latency_s=0.001, **fields)`: hosts whose nodes see each other

A test that uses any of them needs no mark of pytest-trio, and a failure of a seed fails again. Real sockets, threads
and files outside of the world's folder do not belong into such a test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Protocol

import pytest
import trio

from .determinism import deterministic_scheduling, virtual_clock
from .network import Line
from .world import SimHost, SimWorld, open_sim_world

__all__ = [
    "MeshCluster",
    "mesh_cluster",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_generate_tests",
    "sim_clock",
    "sim_seed",
    "sim_world",
]


class MeshCluster(Protocol):
    """What the fixture `mesh_cluster` is."""

    def __call__(
        self, count: int, *, loss: float = 0.0, latency_s: float = 0.001, **fields: Any
    ) -> Awaitable[list[SimHost]]:
        """Start `count` nodes; their hosts, once all see each other."""
        ...


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", "sim_seeds(count, first=0): run with each of these seeds of a simulated world")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each seed that the mark asks for."""
    mark = metafunc.definition.get_closest_marker("sim_seeds")
    if mark is not None and "sim_seed" in metafunc.fixturenames:
        count, first = mark.args[0], mark.kwargs.get("first", 0)
        seeds = range(first, first + count)
        metafunc.parametrize("sim_seed", seeds, ids=[f"seed-{seed}" for seed in seeds])


def _run(main: Callable[..., Awaitable[Any]], *args: Any, clock: trio.abc.Clock | None = None, **options: Any) -> Any:
    return trio.run(main, *args, clock=virtual_clock() if clock is None else clock, **options)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that use a simulated world on virtual time; pytest-trio takes a clock from a test's own arguments
    alone.
    """
    for item in items:
        if "sim_clock" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.trio(run=_run), append=False)


@pytest.fixture
def sim_seed() -> int:
    """The seed of the test's world."""
    return 0


@pytest.fixture
def sim_clock(sim_seed: int) -> Iterator[None]:
    """Virtual time, and the order of tasks that follows from the seed."""
    with deterministic_scheduling(sim_seed):
        yield


@pytest.fixture
async def sim_world(sim_seed: int, sim_clock: None) -> AsyncIterator[SimWorld]:
    """A simulated world without hosts."""
    async with open_sim_world(sim_seed) as sim:
        yield sim


@pytest.fixture
async def mesh_cluster(sim_world: SimWorld) -> MeshCluster:
    """Starts meshes in the test's world; see `MeshCluster`."""

    async def start(count: int, *, loss: float = 0.0, latency_s: float = 0.001, **fields: Any) -> list[SimHost]:
        sim_world.line(Line(latency_s=latency_s, jitter_s=latency_s / 2, loss=loss))
        hosts = await sim_world.start_nodes(count, **fields)
        await sim_world.until_joined()
        return hosts

    return start
