"""`python -m bms.testing SCENARIO…`: run scenarios over many seeds; a failure prints the command that replays it."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from pathlib import Path

import click

from ..errors import ConfigError
from .runner import Result, Variant, run_scenario, shrink


@click.command()
@click.argument("scenarios", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--seeds", default=1, help="How many seeds, from --first on.")
@click.option("--first", default=0, help="The first seed.")
@click.option("--seed", type=int, help="This seed alone, with all that happened.")
@click.option("--nodes", type=int, help="Another number of nodes.")
@click.option("--seconds", type=float, help="Another length.")
@click.option("--drop", multiple=True, type=int, help="Leave out the fault at this place (from 0); may be repeated.")
@click.option("--shrink/--no-shrink", "shrinks", default=True, help="Look for a smaller scenario that fails.")
@click.option("--trace", is_flag=True, help="Print every event of the run.")
@click.option("--log", is_flag=True, help="Print what the nodes log.")
def main(
    scenarios: tuple[Path, ...], seeds: int, first: int, seed: int | None, nodes: int | None, seconds: float | None,
    drop: tuple[int, ...], shrinks: bool, trace: bool, log: bool,
) -> None:  # fmt: skip
    """Run SCENARIOS, each with every seed, on virtual time. Exit 1 if anything was violated, 2 if a file is wrong."""
    if log:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s %(message)s")
    failed = 0
    for path in scenarios:
        variant = Variant(path=path, nodes=nodes, seconds=seconds, dropped=drop)
        try:
            scenario = variant.scenario()
        except ConfigError as error:
            raise click.UsageError(f"{path}: {error}") from error
        chosen = range(first, first + seeds) if seed is None else [seed]
        fired: Counter[str] = Counter()
        results: list[Result] = []
        for number in chosen:
            result = run_scenario(scenario, number, trace_lines=None if trace else 200)
            results.append(result)
            fired.update(result.fired)
            if trace:
                click.echo("\n".join(result.lines))
            if seed is not None:
                click.echo(f"{result.events} events, trace {result.digest}, counts {result.counts}")
            if not result.is_ok:
                failed += 1
                _tell(variant, result, shrinks)
        bad = sum(not result.is_ok for result in results)
        virtual_s, cpu_s = sum(r.virtual_s for r in results), sum(r.cpu_s for r in results)
        calm_s = max(result.calm_s for result in results)
        click.echo(
            f"{scenario.name}: {len(results)} seeds, {bad} with violations; {virtual_s:.0f} virtual s in {cpu_s:.1f} "
            f"CPU s; calm after {calm_s:.0f} s at most; fired {dict(fired)}"
        )
    sys.exit(1 if failed else 0)


def _tell(variant: Variant, result: Result, shrinks: bool) -> None:
    click.echo(f"FAILED {result.scenario} seed {result.seed}: replay it with\n    {variant.command(result.seed)}")
    for violation in result.violations[:5]:
        click.echo(f"    {violation.checker}: {violation.text}")
    if shrinks:
        smaller, least = shrink(variant, result)
        if smaller != variant:
            click.echo(f"  smaller:\n    {smaller.command(least.seed)}")
            for violation in least.violations[:3]:
                click.echo(f"    {violation.checker}: {violation.text}")


if __name__ == "__main__":
    main()
