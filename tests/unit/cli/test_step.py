"""`bms step` and its experiment, and the pictures they draw."""

from __future__ import annotations

import json
import math
import random
import statistics
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bms.cli.histogram import bins, picture, sparkline
from bms.cli.program import root
from bms.cli.step import mean_distance


def bms(*arguments: str) -> Result:
    return CliRunner().invoke(root, arguments)


def test_a_step_is_printed_as_it_can_be_typed_again() -> None:
    assert bms("step", "0,0", "300,400", "--limit", "2.5").output == "1.5,2.0\n"
    found = bms("step", "0,0,0", "100,100,100").output.strip()
    assert [float(x) for x in found.split(",")] == pytest.approx([75 / math.sqrt(3)] * 3)


def test_negative_positions_need_no_quoting() -> None:
    assert bms("step", "-3,-4", "-1e-5,.5", "--limit", "100").output == "-1e-05,0.5\n"


def test_a_path_is_a_line_each_step() -> None:
    assert bms("step", "0", "200", "--path").output == "75.0\n150.0\n200.0\n"
    assert bms("step", "7", "7", "--path").output == ""


def test_json_has_the_field_of_the_public_service() -> None:
    assert json.loads(bms("step", "0,0", "3,4", "-o", "json").output) == {"next_step": [3.0, 4.0]}
    assert json.loads(bms("step", "0", "100", "--path", "-o", "json").output) == {"path": [[75.0], [100.0]]}


@pytest.mark.parametrize(
    "arguments",
    [
        ["0,0", "1"],
        ["0,x", "1,1"],
        ["0,nan", "1,1"],
        ["", ""],
        ["0", "1", "--limit", "-1"],
        ["0", "1e9", "--limit", "1e-9", "--path"],
        ["0", "1", "--lmit", "3"],
        ["--lmit", "1"],
        ["0"],
    ],
)
def test_what_cannot_be_stepped_is_a_usage_error(arguments: list[str]) -> None:
    result = bms("step", *arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_the_experiment_counts_what_the_formula_says() -> None:
    arguments = ["--limit", "50", "--limit", "100", "--dimensions", "2", "--dimensions", "10", "--seed", "4"]
    found = json.loads(bms("step", "experiment", *arguments, "-o", "json").output)
    assert (found["seed"], found["pairs"]) == (4, 1000)
    places = [(one["dimensions"], one["limit"]) for one in found["results"]]
    assert places == [(2, 50), (2, 100), (10, 50), (10, 100)]
    for one in found["results"]:
        assert one["as_foreseen"] == 1000
        assert sum(one["histogram"]["counts"]) == 1000
        # A thousand pairs have a standard error of about 1.5 % in 2 dimensions and 0.6 % in 10.
        assert one["mean_steps"] == pytest.approx(one["expected_steps"] + 0.5, rel=0.06)
    assert bms("step", "experiment", *arguments, "-o", "json").output == json.dumps(found) + "\n"


def test_the_experiment_is_a_table_with_a_histogram_a_line() -> None:
    lines = bms("step", "experiment", "--dimensions", "3", "--limit", "100", "--pairs", "50", "--seed", "1").output
    head, row, verdict = lines.splitlines()
    assert head.split()[:5] == ["N", "LIMIT", "MEAN", "STEPS", "E[D]/LIMIT"]
    assert "█" in row
    assert verdict == "50 of 50 walks took ceil(d/limit) steps. Seed 1."


def test_mean_distances_are_those_that_are_known() -> None:
    assert mean_distance(1) == pytest.approx(1 / 3, abs=1e-9)
    square = (2 + math.sqrt(2) + 5 * math.log(1 + math.sqrt(2))) / 15
    assert mean_distance(2) == pytest.approx(square, abs=1e-9)
    root2, root3 = math.sqrt(2), math.sqrt(3)
    cube = (4 + 17 * root2 - 6 * root3 + 21 * math.log(1 + root2) + 84 * math.log(1 + root3) - 42 * math.log(2)) / 105
    assert mean_distance(3) == pytest.approx(cube - math.pi / 15, abs=1e-9)
    assert [round(10_000 * mean_distance(n)) for n in (2, 10)] == [5214, 12675]
    chance = random.Random(1)
    sample = [
        math.dist([chance.random() for _ in range(7)], [chance.random() for _ in range(7)]) for _ in range(20_000)
    ]
    assert mean_distance(7) == pytest.approx(statistics.fmean(sample), rel=0.01)


# ---------------------------------------------------------------------- pictures


def test_every_value_is_in_one_bin() -> None:
    for values in ([5], [1, 2, 3], [10, 500, 33], list(range(1000))):
        first, width, counts = bins(values)
        assert sum(counts) == len(values)
        assert len(counts) <= 24
        assert first == min(values)
        assert first + width * len(counts) > max(values)
    assert sparkline([0, 0, 0, 0, 0, 0, 0, 0, 1, 3]) == "█▁ ▁"


def unpack_png(raw: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A grey PNG of filter 0 as an array, with its checksums verified."""
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(raw):
        (size,) = struct.unpack_from(">I", raw, place)
        kind, data = raw[place + 4 : place + 8], raw[place + 8 : place + 8 + size]
        assert struct.unpack_from(">I", raw, place + 8 + size) == (zlib.crc32(kind + data),)
        chunks[kind], place = data, place + 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 0, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return rows[:, 1:]


def test_a_picture_has_bars_as_tall_as_their_counts() -> None:
    grey = unpack_png(picture([1, 1, 1, 1, 2, 2, 4], "title", "steps", "pairs", mark=100))
    bars = [int((grey[:, 70 + round((number + 0.5) * 630 / 4)] == 170).sum()) for number in range(4)]
    assert bars == [284, 142, 0, 71]


def test_a_picture_has_a_line_at_the_mark_and_black_labels() -> None:
    with_mark, without = (unpack_png(picture([1, 2, 3, 4], "e[d]", "n", "m", mark=mark)) for mark in (2.5, 100))
    assert (with_mark == 90).any()
    assert not (without == 90).any()
    assert (without[:24] == 0).any(), "the title"
    assert (without[352:] == 0).any(), "the axis across"
    assert (without[:, :60] == 0).any(), "the axis up"


def test_the_experiment_writes_a_picture_for_each_line(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "pictures"
    chosen = ["--dimensions", "2", "--limit", "100", "--limit", "75", "--pairs", "20"]
    result = bms("step", "experiment", *chosen, "--png", str(folder))
    names = [file.name for file in sorted(folder.iterdir())]
    assert names == ["steps-2d-limit-100.png", "steps-2d-limit-75.png"]
    assert result.output.count("wrote ") == 2
    assert unpack_png((folder / names[0]).read_bytes()).shape == (400, 720)
