"""Scenarios with faults: a few seeds of each here, many by `nox -s sim`; and the checkers against planted bugs."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner
from planted import PLANTED

from bms import ConfigError
from bms.testing import Fault, Scenario, Variant, Workload, run_scenario, shrink
from bms.testing.__main__ import main

FOLDER = Path(__file__).parent / "scenarios"
SEEDS_OF_A_BUG = 6


@pytest.mark.parametrize(
    ("name", "seed"),
    [("calm", 1), ("storm", 1), ("storm", 2), ("disks", 1), ("losses", 1), ("races", 1), ("datagrams", 1)],
)
def test_nothing_is_violated(name: str, seed: int) -> None:
    result = run_scenario(Scenario.load(FOLDER / f"{name}.toml"), seed)
    assert result.violations == (), f"replay it: {Variant(path=FOLDER / f'{name}.toml').command(seed)}"
    assert all(result.fired.values())
    assert result.counts["writes acknowledged"] > 50
    assert result.counts["messages acknowledged"] > 50


def test_crashes_meet_operations_under_way_whose_outcome_stays_unknown() -> None:
    result = run_scenario(Scenario.load(FOLDER / "races.toml"), 2)
    assert result.violations == ()
    assert result.counts["operations of unknown outcome"] > 3
    assert result.counts["operations"] > 500
    assert result.judged["linearizable"] == 6


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_a_planted_bug_is_found_within_a_few_seeds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = PLANTED[name]
    planted.plant(monkeypatch)
    scenario = Scenario.load(FOLDER / f"{planted.scenario}.toml")
    for seed in range(SEEDS_OF_A_BUG):
        found = {violation.checker for violation in run_scenario(scenario, seed).violations}
        if found & planted.found_by:
            return
    pytest.fail(f"not found in {SEEDS_OF_A_BUG} seeds")


def test_a_fault_that_never_fired_fails_the_run() -> None:
    idle = Workload(writes_per_s=0.0, messages_per_s=0.0, races_per_s=0.0)
    fault = Fault(kind="disk_full", between=(1, 1), lasts_s=(1, 1))
    scenario = Scenario(name="idle", nodes=2, seconds=3.0, workload=idle, faults=(fault,))
    result = run_scenario(scenario, 1)
    assert [violation.checker for violation in result.violations] == ["fired"]


def test_a_failure_is_made_smaller_and_still_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED["dropped delete"].plant(monkeypatch)
    path = tmp_path / "s.toml"
    path.write_text(
        'name = "s"\nnodes = 4\nseconds = 12\ncalm_s = 20\n[[faults]]\nkind = "crash"\nbetween = [1, 4]\n'
        '[[faults]]\nkind = "freeze"\nbetween = [1, 4]\n'
    )
    variant = Variant(path=path)
    failure = run_scenario(variant.scenario(), 0)
    assert failure.violations
    smaller, result = shrink(variant, failure, runs_max=12)
    assert result.violations
    assert smaller.dropped
    assert run_scenario(smaller.scenario(), 0).digest == result.digest
    assert "--drop" in smaller.command(0)


def test_the_command_runs_seeds_and_says_how_to_replay_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = tmp_path / "calm.toml"
    calm.write_text('name = "short"\nnodes = 2\nseconds = 5\n')
    done = CliRunner().invoke(main, [str(calm), "--seeds", "2"])
    assert (done.exit_code, "2 seeds, 0 with violations" in done.output) == (0, True)
    PLANTED["dropped delete"].plant(monkeypatch)
    calm.write_text('name = "short"\nnodes = 2\nseconds = 12\ncalm_s = 12\n')
    done = CliRunner().invoke(main, [str(calm), "--first", "0", "--seeds", "2", "--no-shrink"])
    assert done.exit_code == 1
    assert f"python -m bms.testing {calm} --seed" in done.output
    calm.write_text('name = "short"\nnode = 2\n')
    done = CliRunner().invoke(main, [str(calm)])
    assert (done.exit_code, "node" in done.output) == (2, True)


@pytest.mark.parametrize(
    "table",
    [
        {"name": "x", "faults": [{"kind": "gremlins"}]},
        {"name": "x", "faults": [{"kind": "crash", "counts": 2}]},
        {"name": "x", "line": {"los": 0.1}},
        {"name": "x", "checkers": ["nothing"]},
        {"name": "x", "nodes": 0},
    ],
)
def test_a_scenario_with_something_unknown_is_refused(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Scenario.parse(table)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_every_scenario_file_can_be_read(path: Path) -> None:
    scenario = Scenario.load(path)
    assert scenario.name == path.stem
    assert attrs.asdict(scenario)
