"""`bms step` and `bms step experiment`: the Bellande step without a mesh.

The experiment is the published one: pairs of positions, uniform in [0, 10000]^n, are walked from one to the other with
different limits, and the steps are counted. What is walked is `bellande_step` over and over, all pairs at once; each
count is compared with ceil(d/limit), and their mean with E[d]/limit. Pictures are drawn by `histogram`.

E[d], the mean distance of two uniform positions in the unit cube, has no closed form for n > 3. With
sqrt(s) = 1/(2 sqrt(pi)) * integral of (1 - exp(-s t)) t^(-3/2) dt, and one phi(t) = E exp(-t (x - y)^2) a dimension, it
is an integral over 1 - phi(t)^n, which Simpson's rule on 2,000 intervals has to nine digits.
"""

from __future__ import annotations

import functools
import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from ..geometry import bellande_path, bellande_step
from .histogram import bins, picture, sparkline
from .output import json_option, print_json, print_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LIMITS", "SIDE", "Outcome", "experiment", "mean_distance", "step", "walk"]

SIDE = 10_000.0
LIMITS = (1.0, 25.0, 50.0, 75.0, 100.0)
DIMENSIONS = tuple(range(2, 11))

_INTERVALS = 2000


def _position(ctx: click.Context, param: click.Parameter, value: str) -> list[float]:
    """Read numbers with commas between them."""
    if value.startswith("--"):  # let through by ignore_unknown_options, for the sake of -1,2
        raise click.NoSuchOption(value.partition("=")[0], ctx=ctx)
    try:
        return [float(number) for number in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a position like 0,0,0") from error


def _second_word(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """What a shell may complete in the place of a position: the commands of two words."""
    return [word for word in ("experiment",) if word.startswith(incomplete)]


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("node0", callback=_position, shell_complete=_second_word)
@click.argument("node1", callback=_position)
@click.option("--limit", type=float, default=75.0, show_default=True, help="The longest step.")
@click.option("--path", is_flag=True, help="All steps to NODE1, where each ends.")
@json_option
def step(node0: list[float], node1: list[float], limit: float, path: bool, form: str) -> None:
    """Take a Bellande step from one position towards another.

    Positions are numbers with commas between them, in any number of dimensions, as in 0,0,0. Prints where one step from
    NODE0 towards NODE1 ends; `bms step experiment` walks the published experiment.
    """
    try:
        found = bellande_path(node0, node1, limit) if path else [bellande_step(node0, node1, limit)]
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if form == "json":
        print_json({"path": found} if path else {"next_step": found[0]})
        return
    for position in found:
        click.echo(",".join(map(repr, position)))


# ---------------------------------------------------------------------- the experiment


@attrs.frozen
class Outcome:
    """Of one number of dimensions and one limit: `steps` has one number a pair, `foreseen` ceil(d/limit) of each."""

    dimensions: int
    limit: float
    steps: list[int]
    foreseen: list[int]

    @property
    def mean(self) -> float:
        """Of the steps."""
        return sum(self.steps) / len(self.steps)

    @property
    def expected(self) -> float:
        """E[d]/limit. Counts are rounded up, which adds half a step to the mean."""
        return SIDE * mean_distance(self.dimensions) / self.limit

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        first, width, counts = bins(self.steps)
        return {
            "dimensions": self.dimensions,
            "limit": self.limit,
            "mean_steps": self.mean,
            "expected_steps": self.expected,
            "least": min(self.steps),
            "most": max(self.steps),
            "as_foreseen": sum(map(int.__eq__, self.steps, self.foreseen)),
            "histogram": {"first": first, "width": width, "counts": counts},
        }


@functools.cache
def mean_distance(dimensions: int) -> float:
    """E[d] of two uniform positions in the unit cube: 1/3 in one dimension, 0.5214 in two, 1.2675 in ten."""

    def at(x: float) -> float:
        if x == 0:
            return dimensions / 6
        u = x / (1 - x) if x < 1 else math.inf  # t = u^2; dt t^(-3/2) becomes dx / x^2
        phi = math.sqrt(math.pi) / u * math.erf(u) + math.expm1(-u * u) / u / u
        return (1 - phi**dimensions) / x**2

    inner = sum(at(i / _INTERVALS) * (4 if i % 2 else 2) for i in range(1, _INTERVALS))
    return (at(0) + inner + at(1)) / (3 * _INTERVALS) / math.sqrt(math.pi)


def walk(
    start: NDArray[np.float64], end: NDArray[np.float64], limit: float, progress: Callable[[int], None] | None = None
) -> list[int]:
    """How many steps each pair takes until it has arrived. `progress` hears of pairs that have, in pieces."""
    import numpy as np  # 100 ms, for nobody who takes a single step

    steps = np.zeros(len(start), dtype=np.int64)
    on_the_way = np.flatnonzero((start != end).any(axis=1))
    place, goal = start[on_the_way], end[on_the_way]
    while len(on_the_way):
        place = bellande_step(place, goal, limit)
        steps[on_the_way] += 1
        going = (place != goal).any(axis=1)
        if not going.all():
            if progress is not None:
                progress(int(len(going) - going.sum()))
            on_the_way, place, goal = on_the_way[going], place[going], goal[going]
    found: list[int] = steps.tolist()
    return found


def _outcome(seed: int, pairs: int, dimensions: int, limit: float, progress: Callable[[int], None]) -> Outcome:
    import numpy as np

    # The same pairs for each limit, whichever others are asked for.
    chance = np.random.default_rng([seed, dimensions])
    start, end = chance.uniform(0, SIDE, (2, pairs, dimensions))
    distances = map(math.dist, start.tolist(), end.tolist())
    return Outcome(
        dimensions, limit, walk(start, end, limit, progress), [math.ceil(distance / limit) for distance in distances]
    )


@click.command("step experiment")
@click.option("--dimensions", type=click.IntRange(1, 64), multiple=True, help="2 to 10 by default; may be repeated.")
@click.option("--limit", type=click.FloatRange(1, SIDE), multiple=True, help="1, 25, 50, 75, 100; may be repeated.")
@click.option("--pairs", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Pairs a dimension.")
@click.option("--seed", type=click.IntRange(0), help="The same pairs again; otherwise chosen, and shown.")
@click.option("--png", "folder", type=click.Path(file_okay=False, path_type=Path), help="A folder for pictures.")
@json_option
def experiment(
    dimensions: Sequence[int], limit: Sequence[float], pairs: int, seed: int | None, folder: Path | None, form: str
) -> None:
    """Walk the published experiment of the Bellande step.

    Pairs of positions, uniform in [0, 10000]^n, are walked from one to the other: how many steps does it take? A
    histogram each, and the mean beside the mean distance E[d] divided by the limit. Takes a minute.
    """
    seed = random.randrange(1 << 32) if seed is None else seed
    chosen = [(n, length) for n in (dimensions or DIMENSIONS) for length in (limit or LIMITS)]
    bar = click.progressbar(
        length=len(chosen) * pairs, label="walking", file=sys.stderr, hidden=not sys.stderr.isatty()
    )
    with bar:
        outcomes = [_outcome(seed, pairs, n, length, bar.update) for n, length in chosen]
    pictures = _draw(outcomes, folder) if folder is not None else []
    if form == "json":
        facts = [outcome.facts for outcome in outcomes]
        print_json({"seed": seed, "pairs": pairs, "side": SIDE, "results": facts, "pictures": [*map(str, pictures)]})
        return
    print_table(
        ("n", "limit", "mean steps", "e[d]/limit", "least", "most", "histogram from least to most"),
        (
            (
                one.dimensions, f"{one.limit:g}", f"{one.mean:.2f}", f"{one.expected:.2f}", min(one.steps),
                max(one.steps), sparkline(one.steps),
            )
            for one in outcomes
        ),
    )  # fmt: skip
    as_foreseen, walked = sum(one.facts["as_foreseen"] for one in outcomes), len(chosen) * pairs
    click.echo(f"{as_foreseen:,} of {walked:,} walks took ceil(d/limit) steps. Seed {seed}.")
    for file in pictures:
        click.echo(f"wrote {file}")


def _draw(outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for one in outcomes:
        file = folder / f"steps-{one.dimensions}d-limit-{one.limit:g}.png"
        title = f"{one.dimensions} dimensions, limit {one.limit:g}: mean {one.mean:.1f}, E[d]/limit {one.expected:.1f}"
        file.write_bytes(picture(one.steps, title, "steps", "pairs", mark=one.expected))
        files.append(file)
    return files
