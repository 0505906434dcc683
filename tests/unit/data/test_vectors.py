"""The vectors in `tests/vectors/data.json`: what another implementation of entries, batches and blobs can be held to.

    python tests/unit/data/test_vectors.py > tests/vectors/data.json

writes them anew, which only a new format number may call for. Byte strings are hexadecimal. The node key's seed is 32
zero bytes; the value of a blob of n bytes is the bytes i * 7 mod 251 for i from 0 to n - 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bms.data import blob, fingerprint
from bms.data.batch import (
    Frontier,
    audit_path,
    check_signature_untrusted,
    leaf_hash,
    parse_head_untrusted,
    path_root_untrusted,
    sign_head,
    tree_levels,
)  # fmt: skip
from bms.data.entry import make_entry, parse_entry_untrusted, slot
from bms.security.keys import NodeKey

FILE = Path(__file__).parents[2] / "vectors" / "data.json"
MESH = bytes(range(32))
KEY = NodeKey.from_seed(bytes(32))
BLOB_SIZES = (4097, 262_144, 262_145, 1_000_000)


def value_of(size: int) -> bytes:
    """The value of a blob of this size."""
    return (bytes(i * 7 % 251 for i in range(251)) * (size // 251 + 1))[:size]


def render() -> dict[str, Any]:
    """All vectors."""
    values: list[tuple[str, Any, int | None]] = [
        ("a short value", b"value", None),
        ("an empty value that expires", b"", 1_800_000_000_500),
        ("a tombstone", None, None),
        ("a blob", blob.split(value_of(4097))[0], None),
        ("the longest inline value", b"x" * 4096, None),
    ]
    entries = [
        make_entry(
            MESH, b"key %d" % i, value, hlc=(1_800_000_000_000 << 16) + i, author=KEY.node_id.raw, epoch=2**64 - 1,
            counter=i + 1,
            expiry=expiry,
        )
        for i, (_, value, expiry) in enumerate(values)
    ]  # fmt: skip
    ids = [entry.id for entry in entries]
    levels = tree_levels(ids)
    frontier = Frontier().add(b"first head").add(b"second head")
    head = sign_head(KEY, mesh_id=MESH, serial=1_800_000_000_000, epoch=2**64 - 1, frontier=frontier, ids=ids, first=1)
    total, sums = fingerprint.EMPTY, []
    for id_ in ids:
        total = fingerprint.add(total, fingerprint.expand(id_))
        sums.append(fingerprint.digest(total).hex())
    blobs = []
    for size in BLOB_SIZES:
        reference, pieces = blob.split(value_of(size))
        listed = [{"kind": piece.kind, "size": len(piece.data), "hash": piece.hash.hex()} for piece in pieces]
        blobs.append({"size": size, "root": reference.root.hex(), "pieces": listed})
    return {
        "mesh_id": MESH.hex(),
        "author": KEY.node_id,
        "entries": [
            {"meaning": name, "key": e.key.hex(), "body": e.body.hex(), "id": e.id.hex(), "slot": slot(MESH, e.key)}
            for (name, _, _), e in zip(values, entries, strict=True)
        ],
        "batch": {
            "earlier_heads": [b"first head".hex(), b"second head".hex()],
            "history": head.history.hex(),
            "leaves": [leaf_hash(id_).hex() for id_ in ids],
            "root": head.root.hex(),
            "paths": [[node.hex() for node in audit_path(levels, i)] for i in range(len(ids))],
            "body": head.body.hex(),
            "signature": head.signature.hex(),
        },
        "fingerprints": {"empty": fingerprint.digest(fingerprint.EMPTY).hex(), "of_the_first_n_ids": sums},
        "blobs": blobs,
    }


def test_the_code_makes_the_bytes_that_the_vectors_say() -> None:
    assert render() == json.loads(FILE.read_text(encoding="utf-8"))


def test_the_vectors_are_read_and_believed() -> None:
    vectors = json.loads(FILE.read_text(encoding="utf-8"))
    ids = []
    for vector in vectors["entries"]:
        entry = parse_entry_untrusted(bytes.fromhex(vector["body"]))
        assert entry is not None
        assert (entry.id.hex(), entry.key.hex(), entry.author) == (vector["id"], vector["key"], KEY.node_id.raw)
        ids.append(entry.id)
    batch = vectors["batch"]
    head = parse_head_untrusted([bytes.fromhex(batch["body"]), bytes.fromhex(batch["signature"])], MESH)
    assert head is not None
    check_signature_untrusted(head)
    for index, path in enumerate(batch["paths"]):
        assert path_root_untrusted(ids[index], index, head.size, [bytes.fromhex(node) for node in path]) == head.root


if __name__ == "__main__":
    sys.stdout.write(json.dumps(render(), indent=1) + "\n")
