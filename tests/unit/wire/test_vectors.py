"""The committed message vectors and the code agree byte for byte, in both directions.

The hex is checked once more against an encoder of this test's own, so that a vector cannot be wrong in the same way as
the library that wrote it.
"""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

from bms.wire import messages as m

FOLDER = Path(__file__).parents[2] / "vectors"
FILES = sorted((FOLDER / "messages").glob("*.json"))
CLASSES = {cls.__name__: cls for cls in (*get_args(m.AnyMessage), *get_args(m.LocalMessage))}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_vectors", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def from_json(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"bytes"}:
        return bytes.fromhex(value["bytes"])
    if isinstance(value, dict):
        return {key: from_json(part) for key, part in value.items()}
    return [from_json(part) for part in value] if isinstance(value, list) else value


def message_of(vector: dict[str, Any]) -> Any:
    name = "".join(part.capitalize() for part in vector["name"].split("-"))
    return CLASSES[name](**{key: from_json(value) for key, value in vector["fields"].items()})


def head(major: int, number: int) -> bytes:
    """RFC 8949 section 3, shortest form."""
    if number < 24:
        return bytes([major << 5 | number])
    for info, form, bits in ((24, ">B", 8), (25, ">H", 16), (26, ">I", 32), (27, ">Q", 64)):
        if number < 2**bits:
            return bytes([major << 5 | info]) + struct.pack(form, number)
    raise AssertionError(number)


def deterministic(item: Any) -> bytes:
    """RFC 8949 section 4.2.1."""
    if item is None or isinstance(item, bool):
        return {None: b"\xf6", False: b"\xf4", True: b"\xf5"}[item]
    if isinstance(item, int):
        return head(0, item) if item >= 0 else head(1, -1 - item)
    if isinstance(item, bytes):
        return head(2, len(item)) + item
    if isinstance(item, str):
        return head(3, len(item.encode())) + item.encode()
    if isinstance(item, list):
        return head(4, len(item)) + b"".join(map(deterministic, item))
    if isinstance(item, dict):
        pairs = sorted((deterministic(key), deterministic(value)) for key, value in item.items())
        return head(5, len(item)) + b"".join(key + value for key, value in pairs)
    for info, form, largest in ((25, ">e", 65504.0), (26, ">f", 3.4e38), (27, ">d", 1.8e308)):
        if abs(item) <= largest and struct.unpack(form, struct.pack(form, item))[0] == item:
            return bytes([7 << 5 | info]) + struct.pack(form, item)
    raise AssertionError(item)


def test_there_is_one_vector_for_each_message_type() -> None:
    vectors = [json.loads(path.read_text(encoding="utf-8")) for path in FILES]
    assert sorted(type(message_of(vector)).__name__ for vector in vectors) == sorted(CLASSES)
    assert all(path.stem == vector["name"] and vector["meaning"] for path, vector in zip(FILES, vectors, strict=True))


@each_file
def test_encoding_a_vectors_fields_gives_its_bytes(path: Path) -> None:
    vector = json.loads(path.read_text(encoding="utf-8"))
    assert m.encode_message(message_of(vector)).hex() == vector["hex"]


@each_file
def test_parsing_a_vectors_bytes_gives_its_fields(path: Path) -> None:
    vector = json.loads(path.read_text(encoding="utf-8"))
    assert m.parse_message_untrusted(bytes.fromhex(vector["hex"]), local=True) == message_of(vector)


@each_file
def test_a_vectors_bytes_are_what_the_specification_says(path: Path) -> None:
    vector = json.loads(path.read_text(encoding="utf-8"))
    fields = from_json(vector["fields"])
    message = message_of(vector)
    items = [message.TYPE, *([] if "id" in fields else [0]), *fields.values()]
    assert deterministic(items).hex() == vector["hex"]


def test_the_files_are_what_the_script_writes() -> None:
    script = make()
    written = {f"{script.name_of(message)}.json": script.render(message, why) for message, why in script.SAMPLES}
    assert written == {path.name: path.read_text(encoding="utf-8") for path in FILES}
