"""docs/reference/wire.cddl and bms.wire.messages say the same.

The schema is parsed here (the part of RFC 8610 that it uses) into a small tree. From it follow:

- what each message class must look like: number, names, order and kinds of its fields (`differences`), and that a
  change to any of these in the schema would be noticed;
- random messages that must be taken (`valid`);
- a judge (`matches`) for messages with one item swapped for something else, anywhere inside: they must be refused
  exactly if the schema refuses them.

A field's name is its label, or the name of its rule; an unnamed array takes the plural of what it lists, or the
message's own name where that has none either. Hyphens become underscores.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bms.errors import RemoteProtocolError
from bms.wire import messages as m

SCHEMA = (Path(__file__).parents[3] / "docs" / "reference" / "wire.cddl").read_text(encoding="utf-8")
CLASSES = {cls.__name__: cls for cls in (*get_args(m.AnyMessage), *get_args(m.LocalMessage))}
PYTHON: dict[str, type[Any]] = {"uint": int, "bool": bool, "tstr": str, "bstr": bytes, "null": type(None)}
PRELUDE = {*PYTHON, "any"}
CLOSING = {"[": "]", "{": "}"}
UINT_MAX = 2**63 - 1  # formats.md, Conventions: an integer is below 2^63 unless a limit is given


# --- a parser for the subset


class Literal(NamedTuple):
    value: int


class Named(NamedTuple):
    """A type of the prelude, perhaps with a size in bytes, or a reference to a rule."""

    name: str
    size: int | None = None


class Entry(NamedTuple):
    """One entry of an array or map. `most` None: no bound. `key` only in maps."""

    least: int
    most: int | None
    label: str | None
    type: Any
    key: Any = None


class Group(NamedTuple):
    opening: str
    entries: tuple[Entry, ...]


class Choice(NamedTuple):
    options: tuple[Any, ...]


class Parser:
    """Recursive descent over the tokens of one schema; whatever is not in the subset is an error."""

    def __init__(self, text: str) -> None:
        bare = re.sub(r";.*", "", text)
        self.tokens = re.findall(r"\.size|=>|[A-Za-z][\w-]*|\d+|[=/\[\]{}(),:*+]", bare)
        assert re.sub(r"\s", "", bare) == "".join(self.tokens), "the schema uses what this parser does not know"
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        assert token, "the schema ends too early"
        assert expected in (None, token), f"{expected} expected, {token} found"
        self.at += 1
        return token

    def rules(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.peek():
            name = self.take()
            assert name not in found
            self.take("=")
            found[name] = self.type()
        return found

    def type(self) -> Any:
        options = [self.single()]
        while self.peek() == "/":
            self.take()
            options.append(self.single())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def single(self) -> Any:
        token = self.take()
        if token == "(":
            inner = self.type()
            self.take(")")
            return inner
        if token in "[{":
            return self.group(token, CLOSING[token])
        if token.isdigit():
            return Literal(int(token))
        if self.peek() == ".size":
            self.take()
            return Named(token, int(self.take()))
        return Named(token)

    def group(self, opening: str, closing: str) -> Group:
        entries = []
        while self.peek() != closing:
            entries.append(self.entry())
            if self.peek() != closing:
                self.take(",")
        self.take(closing)
        return Group(opening, tuple(entries))

    def entry(self) -> Entry:
        least, most = {"*": (0, None), "+": (1, None)}.get(self.peek(), (1, 1))
        if self.peek() in "*+":
            self.take()
        label = None
        if self.peek(1) == ":":
            label = self.take()
            self.take(":")
        type_ = self.type()
        if self.peek() == "=>":
            self.take()
            return Entry(least, most, label, self.type(), key=type_)
        return Entry(least, most, label, type_)


class Schema:
    """The rules of one schema text."""

    def __init__(self, text: str) -> None:
        self.rules = Parser(text).rules()

    def resolve(self, type_: Any) -> Any:
        while isinstance(type_, Named) and type_.name not in PRELUDE:
            assert type_.size is None
            type_ = self.rules[type_.name]
        return type_

    def text(self, type_: Any) -> str:
        """A type with all names resolved and all labels dropped."""
        type_ = self.resolve(type_)
        if isinstance(type_, Literal):
            return str(type_.value)
        if isinstance(type_, Named):
            return type_.name if type_.size is None else f"{type_.name} .size {type_.size}"
        if isinstance(type_, Choice):
            return " / ".join(map(self.text, type_.options))
        parts = []
        for entry in type_.entries:
            inner = self.text(entry.type)
            if isinstance(self.resolve(entry.type), Choice):
                inner = f"({inner})"
            key = f"{self.text(entry.key)} => " if entry.key else ""
            occurs = {(1, 1): "", (0, None): "* ", (1, None): "+ "}[entry.least, entry.most]
            parts.append(occurs + key + inner)
        return f"{type_.opening}{', '.join(parts)}{CLOSING[type_.opening]}"

    def message_names(self, choice: str) -> list[str]:
        return [option.name for option in self.rules[choice].options]

    def items(self, name: str) -> tuple[Entry, ...]:
        """A message's items without the trailing `* any`."""
        *items, rest = self.rules[name].entries
        assert (rest.least, rest.most, rest.type) == (0, None, Named("any")), f"{name} does not end in * any"
        return tuple(items)

    def fields(self, name: str) -> list[tuple[str, str]]:
        """Names and kinds of a message's fields, the id first where there is one."""
        _, ident, *rest = self.items(name)
        found = [("id", self.text(ident.type))] if ident.type == Named("id") else []
        return [*found, *((self.field_name(name, entry), self.text(entry.type)) for entry in rest)]

    def field_name(self, message: str, entry: Entry) -> str:
        if entry.label:
            name = entry.label
        elif isinstance(entry.type, Named):
            name = entry.type.name
        elif isinstance(listed := entry.type.entries[0].type, Named):
            name = listed.name + ("es" if listed.name.endswith(("h", "s")) else "s")
        else:
            name = message
        return name.replace("-", "_")

    def matches(self, type_: Any, value: Any) -> bool:
        """Whether a decoded value is of a type. What is not checked here are bounds beside the schema."""
        type_ = self.resolve(type_)
        if isinstance(type_, Literal):
            return type(value) is int and value == type_.value
        if isinstance(type_, Choice):
            return any(self.matches(option, value) for option in type_.options)
        if isinstance(type_, Named):
            if type_.name == "any":
                return plain(value)
            if type(value) is not PYTHON[type_.name] or (type_.name == "uint" and value < 0):
                return False
            return type_.size is None or len(value) == type_.size
        if type_.opening == "{":
            (entry,) = type_.entries
            return type(value) is dict and all(
                self.matches(entry.key, k) and self.matches(entry.type, v) for k, v in value.items()
            )
        return type(value) is list and self.matches_items(type_.entries, value)

    def matches_items(self, entries: tuple[Entry, ...], values: list[Any]) -> bool:
        at = 0
        for entry in entries:
            most = 1 if entry.most == 1 else len(values)
            count = 0
            while at < len(values) and count < most and self.matches(entry.type, values[at]):
                at, count = at + 1, count + 1
            if count < entry.least:
                return False
        return at == len(values)


def plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(plain, value))
    if isinstance(value, dict):
        return all(type(key) is str and plain(part) for key, part in value.items())
    return value is None or type(value) in (bool, int, float, bytes, str)


WIRE = Schema(SCHEMA)


def class_of(rule: str) -> Any:
    return CLASSES.get("".join(part.capitalize() for part in rule.split("-")))


def differences(schema: Schema) -> list[str]:
    """Where the schema and the classes differ; empty if they say the same."""
    found = []
    for choice, union in (("message", m.AnyMessage), ("local-message", m.LocalMessage)):
        named = [class_of(name) for name in schema.message_names(choice)]
        if named != list(get_args(union)):
            found.append(f"{choice} lists {named}")
    for name in schema.message_names("message") + schema.message_names("local-message"):
        number, ident, *_ = schema.items(name)
        cls = class_of(name)
        if cls is None:
            continue
        kinds = m.field_kinds(cls)
        if number.type != Literal(cls.TYPE):
            found.append(f"{name}: type {number.type}, not {cls.TYPE}")
        if ident.type not in (Named("id"), Literal(0)) or (ident.type == Named("id")) != ("id" in kinds):
            found.append(f"{name}: id {ident.type}")
        listed, held = schema.fields(name), [(field, kind.cddl) for field, kind in kinds.items()]
        if listed != held:
            found.append(f"{name}: {listed} is not {held}")
    return found


MESSAGES = WIRE.message_names("message") + WIRE.message_names("local-message")
each_message = pytest.mark.parametrize("name", MESSAGES)


def test_the_schema_and_the_classes_say_the_same() -> None:
    assert differences(WIRE) == []
    assert len(MESSAGES) == len(CLASSES) == 26


def test_type_numbers_are_unique_and_in_their_families() -> None:
    numbers = [class_of(name).TYPE for name in MESSAGES]
    assert len(set(numbers)) == len(numbers)
    for name in WIRE.message_names("local-message"):
        assert 80 <= class_of(name).TYPE <= 95
    for name in WIRE.message_names("message"):
        assert class_of(name).TYPE < 80


# --- a change on either side is noticed


def rendered(type_: Any) -> str:
    """A tree as schema text again, names unresolved."""
    if isinstance(type_, Literal):
        return str(type_.value)
    if isinstance(type_, Named):
        return type_.name + ("" if type_.size is None else f" .size {type_.size}")
    if isinstance(type_, Choice):
        return "(" + " / ".join(map(rendered, type_.options)) + ")"
    parts = []
    for entry in type_.entries:
        occurs = {(1, 1): "", (0, None): "* ", (1, None): "+ "}[entry.least, entry.most]
        label = f"{entry.label}: " if entry.label else ""
        key = f"{rendered(entry.key)} => " if entry.key else ""
        parts.append(occurs + label + key + rendered(entry.type))
    return f"{type_.opening}{', '.join(parts)}{CLOSING[type_.opening]}"


def schema_with(rules: dict[str, Any]) -> Schema:
    def text(name: str, rule: Any) -> str:
        return f"{name} = {rendered(rule)[1:-1] if isinstance(rule, Choice) else rendered(rule)}\n"

    return Schema("".join(text(name, rule) for name, rule in rules.items()))


def edits(name: str) -> Iterator[tuple[str, tuple[Entry, ...]]]:
    """Every small change to a message's rule: an item dropped, doubled, moved, renamed or of another kind."""
    entries = WIRE.rules[name].entries
    last = len(entries) - 1
    for at, entry in enumerate(entries[:last]):
        before, after = entries[:at], entries[at + 1 :]
        if at >= 2:
            yield f"item {at} dropped", (*before, *after)
            yield f"item {at} doubled", (*before, entry, entry, *after)
            yield f"item {at} renamed", (*before, entry._replace(label="other"), *after)
        for other in (Literal(77), Named("uint"), Named("bool"), Named("tstr"), Named("bstr"), Named("bstr", 33)):
            label = entry.label or (WIRE.field_name(name, entry) if at >= 2 else None)
            if rendered(other) != WIRE.text(entry.type):
                yield f"item {at} of another kind", (*before, entry._replace(type=other, label=label), *after)
        if at >= 2 and at + 1 < last:
            yield f"items {at} and {at + 1} swapped", (*before, entries[at + 1], entry, *entries[at + 2 :])
    yield "a new item", (*entries[:last], Entry(1, 1, "new", Named("uint")), entries[last])


def test_the_schema_survives_being_written_again() -> None:
    assert differences(schema_with(WIRE.rules)) == []


@each_message
def test_any_change_to_a_messages_rule_is_noticed(name: str) -> None:
    for what, entries in edits(name):
        changed = schema_with({**WIRE.rules, name: Group("[", entries)})
        assert differences(changed), f"{name}: {what}"


@pytest.mark.parametrize(
    "part", ["hash", "fingerprint", "mesh-id", "signed", "card", "batch", "versions", "close-code"]
)
def test_any_change_to_a_shared_part_is_noticed(part: str) -> None:
    for other in (Named("bool"), Group("[", (Entry(1, 1, None, Named("bool")),)), Named("bstr", 31)):
        assert differences(schema_with({**WIRE.rules, part: other}))


def test_a_message_that_one_side_lacks_is_noticed() -> None:
    for choice in ("message", "local-message"):
        options = WIRE.rules[choice].options
        assert differences(schema_with({**WIRE.rules, choice: Choice(options[:-1])}))
        extra = {**WIRE.rules, "news": WIRE.rules["ok"], choice: Choice((*options, Named("news")))}
        assert differences(schema_with(extra))


def test_a_change_to_a_class_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    true_kinds = m.field_kinds

    def without_last(cls: type) -> Any:
        return dict(list(true_kinds(cls).items())[:-1])

    def backwards(cls: type) -> Any:
        return dict(reversed(true_kinds(cls).items()))

    def all_alike(cls: type) -> Any:
        return dict.fromkeys(true_kinds(cls), true_kinds(m.Ids)["done"])

    for changed in (without_last, backwards, all_alike):
        monkeypatch.setattr(m, "field_kinds", changed)
        assert len(differences(WIRE)) >= 20
    monkeypatch.undo()
    assert differences(WIRE) == []
    monkeypatch.setattr(m.Ping, "TYPE", 66)
    assert differences(WIRE)


def test_close_codes_are_those_of_the_schema() -> None:
    comment = " ".join(re.findall(r"close-code = .*?(?=\n\n)", SCHEMA, re.DOTALL)[0].replace(";", " ").split())
    listed = dict(re.findall(r"(\d+) ([a-z ]+)", comment))
    assert {int(number) for number in listed} == set(m.CloseCode)
    for code in m.CloseCode:
        assert code.name.lower().split("_")[-1].removesuffix("d") in listed[str(int(code))]


# --- random messages


class Bounds(NamedTuple):
    """What a field is bounded to beside the schema."""

    most: int
    bytes_max: int


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats(allow_nan=False) | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
TEXT = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="*")


def valid(type_: Any, bounds: Bounds) -> st.SearchStrategy[Any]:
    """Values of a type within bounds."""
    type_ = WIRE.resolve(type_)
    if isinstance(type_, Literal):
        return st.just(type_.value)
    if isinstance(type_, Choice):
        return st.one_of([valid(option, bounds) for option in type_.options])
    if isinstance(type_, Group) and type_.opening == "{":
        (entry,) = type_.entries
        return st.dictionaries(valid(entry.key, bounds), valid(entry.type, bounds), max_size=3)
    if isinstance(type_, Group):
        lists = [
            st.lists(valid(e.type, bounds), min_size=e.least, max_size=3 if e.most is None else e.most)
            for e in type_.entries
        ]
        return st.tuples(*lists).map(lambda parts: [item for part in parts for item in part])
    simple: dict[str, st.SearchStrategy[Any]] = {
        "uint": st.integers(0, bounds.most),
        "bool": st.booleans(),
        "null": st.none(),
        "any": ANYTHING,
        "bstr": st.binary(min_size=type_.size or 0, max_size=300 if type_.size is None else type_.size),
        "tstr": st.text(TEXT, max_size=bounds.bytes_max).filter(lambda text: len(text.encode()) <= bounds.bytes_max),
    }
    return simple[type_.name]


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, list[Any]]:
    """A message's rule and items that the schema and the bounds allow."""
    name = draw(st.sampled_from(MESSAGES))
    kinds = list(m.field_kinds(class_of(name)).values())
    entries = WIRE.items(name)
    head = len(entries) - len(kinds)
    items = []
    for at, entry in enumerate(entries):
        kind = kinds[at - head] if at >= head else None
        most = UINT_MAX if kind is None or kind.most is None else kind.most
        items.append(draw(valid(entry.type, Bounds(most, kind.bytes_max or 64 if kind else 64))))
    return name, items


def taken(items: list[Any], canonical: bool = True) -> Any:
    try:
        return m.parse_message_untrusted(cbor2.dumps(items, canonical=canonical), local=True)
    except RemoteProtocolError:
        return None


@given(messages(), st.lists(ANYTHING, max_size=2), st.booleans())
def test_whatever_the_schema_allows_is_taken_and_says_what_was_sent(
    drawn: tuple[str, list[Any]], behind: list[Any], canonical: bool
) -> None:
    name, items = drawn
    message = taken(items + behind, canonical)
    cls = class_of(name)
    assert type(message) is cls
    fields = [getattr(message, field) for field in m.field_kinds(cls)]
    assert fields == items[len(items) - len(fields) :]
    assert m.encode_message(message) == cbor2.dumps(items, canonical=True)


def simplest(type_: Any) -> Any:
    """The least value of a type."""
    type_ = WIRE.resolve(type_)
    if isinstance(type_, Literal):
        return type_.value
    if isinstance(type_, Choice):
        return simplest(type_.options[0])
    if isinstance(type_, Group):
        return {} if type_.opening == "{" else [simplest(entry.type) for entry in type_.entries if entry.least]
    return {"uint": 1, "bool": True, "tstr": "t", "bstr": bytes(type_.size or 0), "null": None, "any": 1}[type_.name]


SAMPLES = {name: [simplest(entry.type) for entry in WIRE.items(name)] for name in MESSAGES}

WRONG: list[Any] = [
    *(None, True, False, -1, 0.0, 1.5, "", "text", b"", b"x" * 16, b"x" * 31, b"x" * 32, b"x" * 33, b"x" * 64),
    *([], [[]], [None], [b""], ["x"], [True], [-1], {}, {"k": 1}, {"k": {b"k": 1}}, 0, 1),
    *(cbor2.undefined, cbor2.CBORSimpleValue(7), cbor2.CBORTag(1, 1), cbor2.CBORTag(42, [])),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to every item inside."""
    parts = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, part in parts:
        yield (*path, key)
        yield from places(part, (*path, key))


@given(messages(), st.data())
def test_a_message_with_one_item_changed_is_taken_only_if_the_schema_allows_that(
    drawn: tuple[str, list[Any]], data: st.DataObject
) -> None:
    name, items = drawn
    items = copy.deepcopy(items)
    path = data.draw(st.sampled_from(list(places(items))))
    wrong = WRONG[data.draw(st.integers(0, len(WRONG) - 1))]
    holder = items
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = copy.deepcopy(wrong) if isinstance(wrong, (list, dict)) else wrong
    allowed = WIRE.matches_items(WIRE.items(name), items) if not isinstance(wrong, cbor2.CBORTag) else False
    message = taken(items)
    assert (type(message) is class_of(name)) == allowed, (name, path, wrong)


@each_message
def test_each_field_of_each_message_is_refused_when_it_is_of_another_kind(name: str) -> None:
    entries = WIRE.items(name)
    sample = SAMPLES[name]
    assert taken(sample) is not None
    for at, entry in enumerate(entries):
        refused = 0
        for wrong in WRONG:
            items = [*sample[:at], wrong, *sample[at + 1 :]]
            allowed = not isinstance(wrong, cbor2.CBORTag) and WIRE.matches(entry.type, wrong)
            assert (taken(items) is not None) == allowed, (name, at, wrong)
            refused += not allowed
        assert refused >= 5
        assert taken(sample[:at]) is None
