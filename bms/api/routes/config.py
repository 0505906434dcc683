"""Routes about settings: what is in force, and changing it while the node runs. See `Mesh.reconfigure`.

What each setting does when it changes is in docs/reference/reconfigure.md. Paths can be shown here and not changed:
who may change settings should not be able to have the node read and use any file of its machine.
"""

from __future__ import annotations

from typing import Any

import trio
from quart import Response

from ...config import setting_fields
from ...config.fields import KINDS, range_text
from ...control.answers import plain, settings
from ...errors import ConfigError
from ...reconfiguration import EFFECTS, Effect
from ...reports import Changes
from ..routing import Call, Routes, json_response
from ..schemas import AboutSetting, ConfigPatch, Settings

__all__ = ["change_config", "get_config", "routes"]

routes = Routes("config")

_PATHS = "paths of the node's machine are not changed over HTTP"


@routes.add("GET", "/api/v1/config", scope="config:read", answers={200: Settings})
async def get_config(call: Call) -> Response:
    """All settings in force, by dotted name, and what each is."""
    await trio.lowlevel.checkpoint()
    return json_response(Settings(settings(call.mesh.config), {name: _about(name) for name in EFFECTS}))


def _about(name: str) -> AboutSetting:
    field = setting_fields()[name]
    kind = str(field.type).partition(" | ")[0]
    effect = EFFECTS[name] if kind != "Path" else Effect("refused", _PATHS)
    words = range_text(field) or KINDS[kind][0]
    rules = field.metadata
    return AboutSetting(
        rules["meaning"], rules["unit"], words, plain(field.default), effect.kind, effect.what, effect.note
    )


@routes.add(
    "PATCH", "/api/v1/config", scope="config:write", body=ConfigPatch, answers={200: Changes}, errors=(422, 502),
    deadline_s=60.0,
)  # fmt: skip
async def change_config(call: Call) -> Response:
    """Put other values in force: all of them or none. What changed, and what was restarted for it."""
    body: ConfigPatch = call.body
    known = setting_fields()
    fields: dict[str, Any] = {}
    for name, value in body.settings.items():
        if name not in known:  # nor a group as a whole, which may have paths in it
            raise ConfigError(name, value, "there is no such setting; each stands by itself, as in http.allowed_hosts")
        if "Path" in str(known[name].type):
            raise ConfigError(name, value, _PATHS)
        group, dot, key = name.rpartition(".")
        given = tuple(value) if isinstance(value, list) else value
        if dot:
            fields.setdefault(group, {})[key] = given
        else:
            fields[key] = given
    return json_response(await call.mesh.reconfigure(**fields))
