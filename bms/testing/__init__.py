"""The proving ground: whole meshes in one process, on virtual time, with the faults of real networks and machines.

For tests of programs that use `bms`, and for the tests of `bms` itself. A simulated world has hosts; each runs a real
node (`bms.Mesh`) with a `World` of its own: simulated network and clock, seeded chance and keys, a disk that can fail.
The same seed gives the same run, event for event. See docs/how-to/test-your-program.md.

    run_simulation, open_sim_world, SimWorld, SimHost, Line     a world to write a test in
    fixtures                                                    the same for pytest: `sim_world`, `mesh_cluster`
    Scenario, run_scenario, shrink                              worlds with a workload, faults and checkers, from files
    Operation, check_keys, check_register                       whether concurrent reads and writes are linearizable
    Heap, Swarm, SwarmNode                                      plain machines by the thousand, without Trio
    proxy, namespaces                                           bad networks between real programs, in real time

`python -m bms.testing SCENARIO --seeds 100` runs scenario files. Nothing here is loaded by `import bms`.
"""

from __future__ import annotations

from .checkers import CHECKERS, Evidence, Violation
from .determinism import run_deterministic
from .faults import Fault
from .heap import Heap
from .history import History
from .linearizability import Operation, Verdict, check_keys, check_register
from .network import Line
from .runner import Result, Variant, run_scenario, shrink
from .scenario import Scenario
from .swarm import Swarm, SwarmNode
from .trace import Trace
from .workload import Workload
from .world import SimHost, SimWorld, open_sim_world, run_simulation

__all__ = [
    "CHECKERS",
    "Evidence",
    "Fault",
    "Heap",
    "History",
    "Line",
    "Operation",
    "Result",
    "Scenario",
    "SimHost",
    "SimWorld",
    "Swarm",
    "SwarmNode",
    "Trace",
    "Variant",
    "Verdict",
    "Violation",
    "Workload",
    "check_keys",
    "check_register",
    "open_sim_world",
    "run_deterministic",
    "run_scenario",
    "run_simulation",
    "shrink",
]
