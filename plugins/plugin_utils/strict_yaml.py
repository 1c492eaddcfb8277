# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""YAML with line numbers, without its surprises: duplicate keys, aliases and tags are refused, and so are unknown keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding, nearest

Path = tuple[str | int, ...]
# A table of keys: type, whether it is required, choices.
Keys = Mapping[str, tuple[type, bool, tuple[str, ...]]]

_TYPE_WORDS = {str: "text", bool: "true or false", int: "a whole number", list: "a list", dict: "a mapping"}


class YamlFault(Exception):
    """A YAML file that is not read.

    :param message: what is wrong.
    :param line: 1-based line.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


@dataclass
class Document:
    """Plain data, and for each path in it the line and the text as it was written."""

    data: Any
    lines: dict[Path, int] = field(default_factory=dict)
    written: dict[Path, str] = field(default_factory=dict)

    def line(self, *path: str | int) -> int:
        """:return: the line of a path, or of the nearest part of it that exists."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 1


def load(text: str) -> Document:
    """Read one YAML document.

    :raises YamlFault: on a syntax error, a duplicate key, an alias, a tag, a key that is not text, or two documents.
    """
    # The same loader in C, where libyaml is there: six times as fast.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        node = loader.get_single_node()
        document = Document(None)
        if node is not None:
            document.data = _build(loader, node, (), document, set())
        return document
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise YamlFault(f"not valid YAML: {exc.problem or exc.context}", mark.line + 1 if mark else 1) from None
    except yaml.YAMLError as exc:
        raise YamlFault(f"not valid YAML: {str(exc).splitlines()[0]}", 1) from None
    except RecursionError:
        raise YamlFault("not valid YAML: nested too deep", 1) from None
    except ValueError as exc:
        raise YamlFault(f"not valid YAML: {exc}", 1) from None
    finally:
        loader.dispose()


def _build(loader: Any, node: Any, path: Path, document: Document, seen: set[int]) -> Any:
    line = node.start_mark.line + 1
    document.lines.setdefault(path, line)
    if id(node) in seen:
        raise YamlFault("anchors and aliases are not used here; write the value twice", line)
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlFault("a key must be a plain word", key_line)
            key = str(key_node.value)
            if key in result:
                raise YamlFault(
                    f"the key '{key}' stands twice (first in line {document.lines[(*path, key)]})", key_line
                )
            document.lines[(*path, key)] = key_line
            result[key] = _build(loader, value_node, (*path, key), document, seen)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, i), document, seen) for i, item in enumerate(node.value)]
    if not node.tag.startswith("tag:yaml.org,2002:"):
        raise YamlFault(f"the tag '{node.tag}' is not used here", line)
    document.written[path] = str(node.value)
    return loader.construct_object(node)


def check_keys(
    document: Document,
    path: Path,
    allowed: Keys,
    file: str,
    findings: list[Finding],
) -> bool:
    """Check a mapping against its table of keys.

    :return: whether everything in it can be used.
    """
    value = at(document.data, path)
    where = ".".join(part if isinstance(part, str) else f"#{part + 1}" for part in path)
    line = document.line(*path)
    before = len(findings)
    if not isinstance(value, dict):
        label = f"'{where}'" if where else "the file"
        findings.append(Finding(file, line, "wrong-type", f"{label} must be a mapping of keys"))
        return False
    for key in value:
        if key not in allowed:
            place = f" under '{where}'" if where else ""
            findings.append(
                Finding(
                    file,
                    document.line(*path, key),
                    "unknown-key",
                    f"unknown key '{key}'{place}{nearest(key, allowed)}",
                )
            )
    for key, (kind, required, choices) in allowed.items():
        if key not in value:
            if required:
                place = f" under '{where}'" if where else ""
                findings.append(Finding(file, line, "missing-key", f"the key '{key}' is missing{place}"))
            continue
        item = value[key]
        item_line = document.line(*path, key)
        if not isinstance(item, kind) or (kind is int and isinstance(item, bool)):
            findings.append(
                Finding(file, item_line, "wrong-type", f"'{key}' must be {_TYPE_WORDS[kind]}, not {shown(item)}")
            )
        elif choices and item not in choices:
            findings.append(
                Finding(file, item_line, "wrong-value", f"'{key}' is '{item}'{nearest(str(item), choices)}")
            )
        elif required and (not item.strip() if isinstance(item, str) else item in ([], {})):
            findings.append(Finding(file, item_line, "wrong-value", f"'{key}' is empty"))
    return len(findings) == before


def at(data: Any, path: Iterable[str | int]) -> Any:
    """:return: what stands at a path."""
    for part in path:
        data = data[part]
    return data


def shown(value: Any) -> str:
    """:return: what kind of value YAML made of what was written, e.g. ``no`` became false."""
    if value is None:
        return "empty"
    if isinstance(value, (list, dict)):
        return _TYPE_WORDS[type(value)]
    return f"{value!r}"
