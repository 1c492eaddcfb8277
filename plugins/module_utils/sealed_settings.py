# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings of a database whose backup is encrypted: their names in the manifest, their values behind the key.

``ALTER DATABASE … SET app.jwt_secret = '…'`` is how many an application keeps a secret, and the manifest is for everybody to read.
"""

from __future__ import annotations

from typing import Any

# Beside the objects of the encrypted catalog; no object has such a key.
KEY = "settings of the database"
_FIELDS = ("settings", "role_settings")


def name_of(setting: str) -> str:
    """:return: the name in ``name=value``, or the setting where it is a name alone."""
    return setting.partition("=")[0]


def withheld(properties: dict[str, Any]) -> bool:
    """:return: whether these are properties with names in the place of settings."""
    lists = [properties["settings"], *properties["role_settings"].values()]
    return any("=" not in setting for settings in lists for setting in settings)


def without_values(properties: dict[str, Any]) -> dict[str, Any]:
    """:return: the properties of a database as they stand in a manifest that everybody may read."""
    return {
        **properties,
        "settings": [name_of(setting) for setting in properties["settings"]],
        "role_settings": {
            role: [name_of(setting) for setting in settings] for role, settings in properties["role_settings"].items()
        },
    }


def values(properties: dict[str, Any]) -> dict[str, Any]:
    """:return: what is kept under :data:`KEY`."""
    return {field: properties[field] for field in _FIELDS}


def joined(manifest: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """:param kept: what was under :data:`KEY`. :return: the manifest as that of a plain backup."""
    return {**manifest, "properties": {**manifest["properties"], **kept}}
