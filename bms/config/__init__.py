"""Every setting of a node: meaning, unit, range, default, where it comes from; what differs between two sets of them.

A `Config` is frozen and valid: one that exists has passed every check, or `ConfigError` was raised and nothing was
made. From code it reads no environment and no file. `Config.load` takes, each over the one before it: the defaults, a
TOML file, `BMS_*` environment variables, keyword overrides.

    fields      what a setting is: metadata, accepted forms, the check
    sources     TOML, environment, overrides; where a value stood; the folder of all nodes
    settings    `Config` and its groups
    reference   docs/reference/config.md, printed from the metadata: `python -m bms.config > docs/reference/config.md`

Deliberately absent: profiles and includes; settings for what this version does not have (the names promised for later
are known, and refused with those words when they are used).
"""

from .settings import (
    Config,
    GossipConfig,
    HttpConfig,
    LimitsConfig,
    LogConfig,
    StoreConfig,
    changes,
    load,
    parse_setting,
    setting_fields,
)
from .sources import home

__all__ = [
    "Config",
    "GossipConfig",
    "HttpConfig",
    "LimitsConfig",
    "LogConfig",
    "StoreConfig",
    "changes",
    "home",
    "load",
    "parse_setting",
    "setting_fields",
]
