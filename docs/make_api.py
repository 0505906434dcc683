"""Prints docs/reference/api.md from the docstrings of everything that `bms` exports.

    python docs/make_api.py > docs/reference/api.md

A test holds the page equal to what this prints. Signatures are shown with the annotations as they stand in the code, so
that every version of Python prints the same. Left out: what begins with an underscore, what a class inherits, and the
settings of `Config`, which have a page of their own.
"""

from __future__ import annotations

import ast
import enum
import inspect
import re
import sys
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import attrs

import bms
import bms.errors

__all__ = ["page"]

_HEAD = """# API

Printed by `python docs/make_api.py > docs/reference/api.md`; do not edit.

Everything here is importable from `bms` itself. Functions marked `async` are Trio's: they are checkpoints, and may be
cancelled. What the errors mean to a program is on the page of [errors](errors.md), every setting of `Config` on that
of [configuration](config.md).
"""

_FACTORY: Any = type(attrs.Factory(list))


def page() -> str:
    """The whole page."""
    found = [(name, getattr(bms, name)) for name in bms.__all__]
    functions = [(name, value) for name, value in found if inspect.isfunction(value)]
    errors = [(name, value) for name, value in vars(bms.errors).items() if name in bms.__all__ and _is_error(value)]
    others = [pair for pair in found if pair not in functions and pair not in errors and pair[1] is not bms.Mesh]
    sections = [_HEAD, "## Making a node\n", *(_function(name, value) for name, value in functions)]
    life = _text(sys.modules[bms.Mesh.__module__])
    sections += ["## Mesh\n", life, *list(_class(bms.Mesh))[1:], "## Values and reports\n"]
    for name, value in others:
        sections += [f"### `{name}`\n", *(_class(value) if inspect.isclass(value) else _other(name, value))]
    sections += ["## Errors\n", _errors(errors)]
    return "\n".join(sections)


def _is_error(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception)


def _text(value: object) -> str:
    """A docstring as Markdown: usage that stands indented in it becomes a block of code by that indentation."""
    document = inspect.cleandoc(getattr(value, "__doc__", None) or "")
    return document + "\n" if document else ""


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _parameter(parameter: inspect.Parameter) -> str:
    is_keywords, is_rest = parameter.kind is parameter.VAR_KEYWORD, parameter.kind is parameter.VAR_POSITIONAL
    stars = "**" if is_keywords else "*" if is_rest else ""
    text = f"{stars}{parameter.name}"
    if parameter.annotation is not parameter.empty:
        text += f": {_annotation(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        text += f" = {_default(parameter.default)}"
    return text


def _default(value: object) -> str:
    shown = repr(value)
    return "…" if " at 0x" in shown or inspect.isroutine(value) or inspect.isclass(value) else shown


def _signature(name: str, function: Any, *, is_method: bool = False) -> str:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1 if is_method else 0 :]
    shown: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in shown and not any(s.startswith("*") for s in shown):
            shown.append("*")
        shown.append(_parameter(parameter))
    context = hasattr(function, "__wrapped__")
    start = "async with " if context else "async " if inspect.iscoroutinefunction(function) else ""
    answer = "" if signature.return_annotation is signature.empty else _annotation(signature.return_annotation)
    yielded = re.fullmatch(r"(?:Async)?Iterator\[(.*)\]", answer) if context else None
    answer = yielded[1] if yielded else answer
    return f"```\n{_wrapped(f'{start}{name}(', shown, ')' + (f' -> {answer}' if answer else ''))}\n```\n"


def _wrapped(start: str, parameters: list[str], end: str) -> str:
    line = start + ", ".join(parameters) + end
    if len(line) <= 110:
        return line
    return start + "\n" + "".join(f"    {parameter},\n" for parameter in parameters) + end


def _function(name: str, function: FunctionType) -> str:
    return f"### `{name}`\n\n{_signature(f'bms.{name}', function)}\n{_text(function)}"


def _class(kind: type) -> Iterator[str]:
    if "__doc__" in vars(kind):
        yield _text(kind)
    if issubclass(kind, enum.Enum):
        yield "".join(f"- `{member.name}`: `{member.value!r}`\n" for member in kind)
        return
    if attrs.has(kind) and kind is not bms.Config:
        yield "".join(_field(field) for field in attrs.fields(kind))
    for part in _parts(kind):
        for name, member in vars(part).items():
            if not name.startswith("_"):
                yield from _member(kind, name, member)


def _parts(kind: type) -> list[type]:
    """The classes that a class is documented with: `Mesh` is put together of its verbs."""
    return [part for part in kind.__mro__ if part is kind or part.__module__.startswith("bms.verbs.")]


def _field(field: attrs.Attribute[Any]) -> str:
    shown = f"{field.name}: {_annotation(field.type)}"
    default: Any = field.default
    if default is not attrs.NOTHING:
        shown += f" = {_default(default.factory() if isinstance(default, _FACTORY) else default)}"
    return f"- `{shown}`\n"


def _member(kind: type, name: str, member: Any) -> Iterator[str]:
    shown = f"{'mesh' if kind is bms.Mesh else kind.__name__}.{name}"
    level = "###" if kind is bms.Mesh else "####"
    if isinstance(member, property):
        answer = _annotation(inspect.signature(member.fget).return_annotation)  # type: ignore[arg-type]
        yield f"{level} `{shown}`\n\n```\n{shown}: {answer}\n```\n\n{_text(member)}"
    elif isinstance(member, (classmethod, staticmethod)):
        yield f"{level} `{shown}`\n\n{_signature(shown, member.__func__, is_method=True)}\n{_text(member)}"
    elif inspect.isfunction(member):
        yield f"{level} `{shown}`\n\n{_signature(shown, member, is_method=True)}\n{_text(member)}"


def _other(name: str, value: Any) -> Iterator[str]:
    """A name that is no class: its docstring is the text below its assignment."""
    tree = ast.parse(inspect.getsource(sys.modules[value.__module__]))
    for node, after in zip(tree.body, tree.body[1:], strict=False):
        is_it = isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
        if is_it and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield f"{inspect.cleandoc(str(after.value.value))}\n"


def _errors(errors: list[tuple[str, type]]) -> str:
    first = {name: (kind.__doc__ or "").partition("\n")[0] for name, kind in errors}
    return "".join(f"- [`{name}`](errors.md#{name.lower()}): {line}\n" for name, line in first.items())


if __name__ == "__main__":
    sys.stdout.write(page())
