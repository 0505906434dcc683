"""The house checks itself: layering, charters, public names, sizes and the few bans, on the source as it is parsed.

Nothing here imports a module to judge it, except where a promise is about importing. Each list of exceptions
is explicit and says why; an entry that is no longer needed fails too, so that the lists cannot outlive their reasons.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bms"

# Lowest first: a room imports only from rooms before it (ARCHITECTURE.md).
ROOMS = [
    *(
        "errors",
        "values",
        "config",
        "clock",
        "counters",
        "seldom",
        "limits",
        "failpoints",
        "world",
        "nursery",
        "geometry",
        "wire",
        "security",
    ),
    *("net", "store", "membership", "messaging", "neighbours", "data", "admission", "supervisor", "reports", "log"),
    "monitor",
    *("reconfiguration", "renewal", "life", "roster", "verbs", "mesh", "control", "api"),
    *("client", "cli", "testing"),
]
# The package's face and its program start stand above all rooms.
TOP = ["__init__", "__main__"]

# Imports against the order: (module, room) -> why. Only ever inside a function.
LAZY_UPWARD: dict[tuple[str, str], str] = {
    ("mesh.py", "api"): "HTTP costs 14 MB and a third of a second: loaded only when it is on",
}

# Imported without being named in pyproject.toml, since they are part of what a named one offers.
PART_OF: dict[str, str] = {
    "dns": "dnspython: its package has another name",
    "h11": "hypercorn: the states of its HTTP/1 connection",
    "h2": "hypercorn: the events of its HTTP/2 connection",
    "quart": "quart-trio: what it runs on Trio",
    "werkzeug": "quart-trio: Quart's router and errors",
    "wsproto": "hypercorn: the events of its WebSockets",
    "outcome": "trio: what trio.lowlevel.reschedule takes",
}

# No clock, no chance, no I/O: what these modules do follows from what is passed in.
PURE = [
    *("errors.py", "values.py", "clock.py", "counters.py", "geometry.py", "wire/*.py", "membership/view.py"),
    *("membership/candidates.py", "membership/coordinates.py", "membership/nearest.py", "membership/swim.py"),
    *("membership/claims.py", "membership/members.py", "membership/probing.py", "membership/comparing.py"),
    *("membership/suspicion.py", "membership/dissemination.py", "membership/damping.py", "membership/timers.py"),
    *("membership/tuning.py", "membership/pacing.py", "seldom.py", "limits.py"),
    *("membership/packets.py", "membership/believed.py"),
    *("data/entry.py", "data/batch.py", "data/fingerprint.py", "data/blob.py", "messaging/window.py"),
    *("security/pairwise.py", "security/pairs.py", "security/tokens.py"),
    "monitor/events.py",
    "monitor/plots.py",
    "monitor/catalog.py",
    "monitor/kinds.py",
]
IMPURE = {"trio", "socket", "ssl", "apsw", "sqlite3", "time", "os", "secrets", "threading", "subprocess", "asyncio"}
# Rooms of formats and cryptography that pure modules may use: no I/O happens in what they take from them.
FORMATS = {"security"}

MODULE_LINES_MAX = 700
FUNCTION_LINES_MAX = 60
# "module.py:function" -> why it is one thing all the same.
LONG_FUNCTIONS: dict[str, str] = {}

# Where everything may be caught: "module.py:function" -> what is isolated or restarted there. It is logged and counted.
BROAD_HANDLERS: dict[str, str] = {
    "api/connection.py:Connection.run": "one client's connection is isolated from the others and from the node",
    "api/connection.py:_Tasks._run": "one request: its client gets a 500, the connection and the others go on",
    "client/feed.py:EventSocket._read": "a mistake in the library's reader costs that connection; the feed reconnects",
    "control/server.py:_Connection._answer": "a bug in one verb: the command gets a RemoteError, the socket stays",
    "control/server.py:serve_control.serve": "one connection of the command line is isolated from the others",
    "messaging/courier.py:Courier._answer": "a program's handler: its caller gets a RemoteError, other requests go on",
    "messaging/courier.py:Courier._ask": "the same, where caller and handler are on one node",
    "net/datagrams.py:Datagrams._take_all": "a bug in handling a datagram costs that packet, not the service",
    "net/link.py:Link._guard": "a bug in one room's handler costs that link, not the node",
    "net/pool.py:Pool._tell": "a bug in telling of a link's coming or going costs that link, not all of them",
    "net/pool.py:Pool.serve": "a bug in shaking hands costs that connection, not the listener",
    "nursery.py:open_body_nursery": "the body's own exception is taken out of the nursery's group, as itself",
    "store/database.py:Database._tell": "the commit is on disk: a bug in telling of it keeps no writer waiting",
    "supervisor.py:Supervisor._run": "a crashed subsystem is restarted with backoff",
}

# Errors outside bms/errors.py: "module.py:class" -> why callers of `bms` need not know it. Each refines one inside.
INNER_ERRORS: dict[str, str] = {
    "api/problems.py:ProblemError": "an answer's status, inside the HTTP interface alone",
    "net/handshake.py:DuplicateLinkError": "for the pool, which has the other link; to callers it is unreachable",
}

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    """One source file of the package."""

    path: Path
    name: str  # relative to the package: "wire/codec.py"
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The first part of its place: "wire", "errors", "__init__"."""
        return self.name.split("/")[0].removesuffix(".py")


class Import(NamedTuple):
    """One import: the dotted name ("bms.wire.codec", "trio"), its line, and whether it stands inside a function."""

    target: str
    line: int
    lazy: bool


def _parse(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    return Module(path, path.relative_to(PACKAGE).as_posix(), text, ast.parse(text, str(path)))


MODULES = [_parse(path) for path in sorted(PACKAGE.rglob("*.py"))]
each_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)


def nodes_with_depth(tree: ast.AST, in_function: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below `tree`, with whether a function encloses it."""
    for child in ast.iter_child_nodes(tree):
        yield child, in_function
        yield from nodes_with_depth(child, in_function or isinstance(child, FunctionNode | ast.Lambda))


def imports(module: Module) -> Iterator[Import]:
    """All imports of a module, relative ones made absolute, `from . import x` as the module x if there is one."""
    package = ["bms", *module.name.split("/")[:-1]]
    for node, lazy in nodes_with_depth(module.tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                is_module = source.startswith("bms") and _file_of(f"{source}.{alias.name}") is not None
                yield Import(f"{source}.{alias.name}" if is_module else source, node.lineno, lazy)


def _file_of(dotted: str) -> Path | None:
    place = ROOT.joinpath(*dotted.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, FunctionNode | ast.ClassDef]]:
    """Functions, classes and methods with their dotted names; not what is defined inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FunctionNode | ast.ClassDef):
            yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from definitions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from definitions(node, prefix)


def enclosing(module: Module) -> Iterator[tuple[str, ast.AST]]:
    """Every node with the dotted name of the innermost function or class around it."""

    def walk(tree: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(tree):
            yield name, child
            inner = f"{name}.{child.name}".strip(".") if isinstance(child, FunctionNode | ast.ClassDef) else name
            yield from walk(child, inner)

    return walk(module.tree, "")


def declared_all(module: Module) -> list[str] | None:
    """The names in `__all__`, or None where it is missing or not a plain list of texts."""
    for node in module.tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            value = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            return list(value) if all(isinstance(name, str) for name in value) else None
    return None


def bound_names(module: Module) -> set[str]:
    """What a module's own top level defines or imports."""
    names: set[str] = set()
    for node, lazy in nodes_with_depth(module.tree):
        if isinstance(node, ast.ImportFrom | ast.Import) and not lazy:
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    for node in module.tree.body:
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                names.add(part.id)
    return names | {name for name, _ in definitions(module.tree) if "." not in name}


# --- layers


@each_module
def test_a_room_imports_only_from_rooms_below_it(module: Module) -> None:
    order = {room: place for place, room in enumerate([*ROOMS, *TOP])}
    assert module.room in order, f"{module.name}: a room that is not in the order; say where it stands"
    wrong = []
    for found in imports(module):
        if found.target.split(".")[0] != "bms":
            continue
        room = found.target.split(".")[1] if "." in found.target else "__init__"
        assert room in order, f"{module.name}:{found.line} imports {found.target}, which is in no known room"
        allowed = found.lazy and (module.name, room) in LAZY_UPWARD
        if room != module.room and order[room] > order[module.room] and not allowed:
            wrong.append(f"{module.name}:{found.line} imports {found.target}, which is above {module.room}")
    assert not wrong


def test_every_folder_of_the_package_is_a_package() -> None:
    folders = {module.path.parent for module in MODULES}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_each_allowed_upward_import_exists() -> None:
    used = {
        (module.name, found.target.split(".")[1])
        for module in MODULES
        for found in imports(module)
        if found.lazy and found.target.startswith("bms.")
    }
    assert set(LAZY_UPWARD) <= used


def _pure_modules() -> set[str]:
    return {path.relative_to(PACKAGE).as_posix() for pattern in PURE for path in PACKAGE.glob(pattern)}


@pytest.mark.parametrize("pattern", PURE)
def test_each_name_in_the_list_of_pure_modules_is_a_module(pattern: str) -> None:
    assert list(PACKAGE.glob(pattern)), "renamed or moved? then its purity is no longer checked"


@pytest.mark.parametrize("name", sorted(_pure_modules()))
def test_a_pure_module_imports_nothing_that_acts(name: str) -> None:
    module, pure = _parse(PACKAGE / name), _pure_modules()
    for found in imports(module):
        parts = found.target.split(".")
        assert parts[0] not in IMPURE, f"{name}:{found.line} imports {found.target}"
        if parts[0] == "bms" and (path := _file_of(found.target)) is not None:
            other = path.relative_to(PACKAGE).as_posix()
            assert other in pure or parts[1] in FORMATS, f"{name}:{found.line}: {other} is not pure"


def test_only_named_dependencies_are_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {re.split(r"[<>=!~\[ ]", requirement)[0] for requirement in project["dependencies"]}
    importable = {"bms", "nacl", *PART_OF} | {name.replace("-", "_") for name in named if name != "pynacl"}
    found = {(m.name, i.target.split(".")[0]) for m in MODULES for i in imports(m)}
    foreign = {(name, top) for name, top in found if top not in importable and top not in sys.stdlib_module_names}
    # Test fixtures for users' own tests may need the test programs; a node may not.
    assert not {(name, top) for name, top in foreign if not name.startswith("testing/")}


# --- charters, names, docstrings


@each_module
def test_a_module_opens_with_a_charter_of_at_least_two_sentences(module: Module) -> None:
    charter = ast.get_docstring(module.tree) or ""
    if module.path.name == "__main__.py":
        assert charter  # a program start has nothing more to say
        return
    assert len(re.findall(r"[.!?](?=\s|$)", charter)) >= 2, charter or "no docstring"


@each_module
def test_all_names_what_a_module_offers(module: Module) -> None:
    if module.path.name == "__main__.py":
        return  # a program start offers nothing
    names = declared_all(module)
    assert names is not None, "no __all__"
    assert len(names) == len(set(names))
    assert set(names) <= bound_names(module), "names in __all__ that the module does not have"
    public = {name for name, _ in definitions(module.tree) if not name.startswith("_") and "." not in name}
    assert public <= set(names), "public functions and classes that __all__ leaves out"


@each_module
def test_whatever_is_public_has_a_docstring(module: Module) -> None:
    silent = []
    for name, node in definitions(module.tree):
        decorators = {ast.unparse(decorator).split("(")[0].rpartition(".")[2] for decorator in node.decorator_list}
        hidden = any(part.startswith("_") for part in name.split("."))
        if not hidden and not decorators & {"overload", "setter", "deleter"} and not ast.get_docstring(node):
            silent.append(f"{module.name}:{node.lineno} {name}")
    assert not silent


def test_the_package_offers_its_names_and_every_error() -> None:
    import bms
    from bms import errors

    assert [name for name in bms.__all__ if not hasattr(bms, name)] == []
    assert set(errors.__all__) <= set(bms.__all__)
    for name in errors.__all__:
        assert getattr(bms, name) is getattr(errors, name)


def test_every_error_is_a_mesh_error_with_a_meaning_for_state() -> None:
    from bms import errors

    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, errors.MeshError)
        assert error.__doc__


def test_importing_the_package_is_light_and_configures_nothing() -> None:
    program = (
        "import logging, sys; before = set(sys.modules); import bms;"
        "heavy = {'rich', 'click', 'asyncio', 'numpy', 'pytest'} & (set(sys.modules) - before);"
        "assert not heavy, heavy; assert not logging.getLogger().handlers;"
        "assert not [h for h in logging.getLogger('bms').handlers if not isinstance(h, logging.NullHandler)]"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_all_names_of_the_package_bring_no_http_client_along() -> None:
    program = "import sys, bms; [getattr(bms, name) for name in bms.__all__]; assert 'httpx' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- sizes


@each_module
def test_a_module_is_one_thing(module: Module) -> None:
    assert len(module.text.splitlines()) <= MODULE_LINES_MAX


def _lines(node: FunctionNode) -> int:
    """Lines of a function beside its docstring."""
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is not None:
        total -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
    return total


def test_a_function_is_one_thing() -> None:
    long = {
        f"{module.name}:{name}"
        for module in MODULES
        for name, node in definitions(module.tree)
        if isinstance(node, FunctionNode) and _lines(node) > FUNCTION_LINES_MAX
    }
    assert long == set(LONG_FUNCTIONS)


# --- errors


def test_errors_stand_in_one_tree() -> None:
    from bms import errors

    outside = {}
    for module in MODULES:
        for name, node in definitions(module.tree):
            if isinstance(node, ast.ClassDef) and module.name != "errors.py":
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                if any(base.endswith(("Error", "Exception", "Warning")) for base in bases):
                    outside[f"{module.name}:{name}"] = bases
    assert set(outside) == set(INNER_ERRORS)
    assert [name for name, bases in outside.items() if not bases & set(errors.__all__)] == []


def _makers(module: Module) -> set[str]:
    """Functions of the module that return a RemoteProtocolError, for `raise wrong(…)`."""
    return {
        name.rpartition(".")[2]
        for name, node in definitions(module.tree)
        if isinstance(node, FunctionNode) and node.returns and ast.unparse(node.returns) == "RemoteProtocolError"
    }


def _own_raises(tree: ast.AST, caught: ast.ExceptHandler | None = None) -> Iterator[tuple[ast.Raise, str | None]]:
    """The raise statements of a function itself; with each, what the nearest `except` around it catches."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, FunctionNode | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(child, ast.Raise):
            yield child, ast.unparse(caught.type) if caught and caught.type else None
        yield from _own_raises(child, child if isinstance(child, ast.ExceptHandler) else caught)


@each_module
def test_parsers_of_untrusted_bytes_blame_only_the_peer(module: Module) -> None:
    wrong = []
    for name, node in definitions(module.tree):
        if not isinstance(node, FunctionNode) or not node.name.endswith("_untrusted"):
            continue
        for statement, caught in _own_raises(node):
            error = statement.exc
            if isinstance(error, ast.Call) and isinstance(error.func, ast.Name | ast.Attribute):
                maker = error.func.id if isinstance(error.func, ast.Name) else error.func.attr
                fine = maker == "RemoteProtocolError" or maker in _makers(module)
            else:  # `raise` or `raise error` inside `except RemoteProtocolError as error`
                fine = caught == "RemoteProtocolError"
            if not fine:
                wrong.append(f"{module.name}:{statement.lineno} in {name}: {ast.unparse(statement)}")
    assert not wrong


def test_everything_is_caught_only_where_something_is_restarted_or_isolated() -> None:
    broad = set()
    for module in MODULES:
        for name, node in enclosing(module):
            if not isinstance(node, ast.ExceptHandler):
                continue
            types = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            catches_all = any(t is None or ast.unparse(t) in ("Exception", "BaseException") for t in types)
            last = node.body[-1]
            cleans_up = isinstance(last, ast.Raise) and last.exc is None  # and passes it on
            if catches_all and not cleans_up:
                broad.add(f"{module.name}:{name}")
    assert broad == set(BROAD_HANDLERS)


# --- tests


def _test_files() -> list[Path]:
    return [path for path in sorted((ROOT / "tests").rglob("*.py")) if "e2e" not in path.parts]


@pytest.mark.parametrize("path", _test_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_tests_do_not_sleep_or_mock(path: Path) -> None:
    banned = {"time.sleep", "unittest.mock", "asyncio"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not banned & {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not banned & {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in banned


def test_tests_are_not_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []
