"""The fixtures that `bms.testing` offers to users, for the tests of simulated meshes."""

from __future__ import annotations

from bms.testing.fixtures import (
    mesh_cluster,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_generate_tests,
    sim_clock,
    sim_seed,
    sim_world,
)  # fmt: skip

__all__ = [
    "mesh_cluster",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_generate_tests",
    "sim_clock",
    "sim_seed",
    "sim_world",
]
