# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that node_exporter's textfile collector reads, and what is kept of earlier runs to write them whole.

Two files an environment, since one more with the same metric and labels would make node_exporter drop the whole scrape:
``pgops-<environment>-runs.prom`` and ``pgops-<environment>-timers.prom``.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import timer_state
from ansible_collections.whitecross.pgops.plugins.module_utils.timer_state import TimerPlace
from ansible_collections.whitecross.pgops.plugins.plugin_utils import metrics
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import make_private_folder, write_private_file
from ansible_collections.whitecross.pgops.plugins.plugin_utils.metrics import METRICS, Sample

FORMAT = 1
# node_exporter runs as a user of its own and must read them; that is why they hold names, times and counts only.
MODE = 0o644
RUNS, TIMERS = "runs", "timers"


class NotWritten(Exception):
    """Why the metrics of a run are not where Prometheus finds them, in one sentence without a full stop."""


def file_of(directory: str | Path, environment: str, kind: str) -> Path:
    """:return: a file that node_exporter reads. :param kind: ``runs`` or ``timers``"""
    return Path(directory).expanduser() / f"pgops-{environment}-{kind}.prom"


def leave(
    report: Mapping[str, Any], state_directory: str | Path, directory: str, hosts: Iterable[str] | None = None
) -> Path | None:
    """Write what a run tells, beside what earlier ones have told; and the timers' files.

    :param report: as ``reporting.finish`` gives it
    :param state_directory: ``pgops_state_directory``: what is known is kept there, and in check mode nothing is
    :param directory: ``pgops_metrics_directory``; empty where nobody wants metrics: files that are there by an earlier one go
    :param hosts: those of the environment's inventory
    :return: the file of the runs, None where none was written
    :raises NotWritten: it could not be
    """
    if report.get("check_mode") or not report.get("run_id"):
        return None
    environment = str(report["environment"])
    kept = _kept(state_directory, environment)
    if not directory and not kept.exists():
        return None
    with _told(directory), _locked(kept):
        before = _read(kept)
        known = metrics.merged(_samples(before), metrics.of_report(report), hosts)
        earlier = str(before.get("directory") or "")
        document = {"format": FORMAT, "directory": _whole(directory), "samples": [_plain(sample) for sample in known]}
        write_private_file(kept, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        if earlier and earlier != _whole(directory):
            # What nobody writes any more would stand there as if it were true.
            _forget(earlier, environment)
        if not directory:
            return None
        path = file_of(directory, environment, RUNS)
        _write(path, known)
        _write_timers(state_directory, environment, directory)
        return path


def leave_timers(state_directory: str | Path, environment: str) -> Path | None:
    """Write the timers' file where the last run of the environment has written its metrics.

    :return: the file, None where nobody wants metrics
    :raises NotWritten: it could not be
    """
    kept = _kept(state_directory, environment)
    directory = str(_read(kept).get("directory") or "")
    if not directory:
        return None
    with _told(directory), _locked(kept):
        return _write_timers(state_directory, environment, directory)


def text_of(samples: Iterable[Sample]) -> str:
    """:return: the samples in Prometheus' text format, each metric with its HELP and TYPE. :raises ImportError: no prometheus_client"""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import GaugeMetricFamily

    families: dict[str, Any] = {}
    for sample in samples:
        metric = METRICS[sample.name]
        family = families.get(sample.name)
        if family is None:
            family = families[sample.name] = GaugeMetricFamily(sample.name, metric.told, labels=list(metric.labels))
        family.add_metric([sample.labels[label] for label in metric.labels], sample.value)

    class Collected:
        def collect(self) -> Iterator[Any]:
            yield from families.values()

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())  # type: ignore[arg-type, unused-ignore]
    return str(generate_latest(registry), "utf-8")


def _write_timers(state_directory: str | Path, environment: str, directory: str) -> Path | None:
    place = TimerPlace(str(Path(state_directory).expanduser()), environment)
    record, path = timer_state.read(place.record), file_of(directory, environment, TIMERS)
    if record is None:
        with suppress(FileNotFoundError):
            path.unlink()
        return None
    beats = {name: timer_state.read(place.heartbeat(name)) or {} for name in record.get("jobs") or {}}
    _write(path, metrics.of_timers(environment, record, beats))
    return path


def _write(path: Path, samples: Iterable[Sample]) -> None:
    """Whole or not at all; the folder is node_exporter's, and is not made."""
    text = text_of(samples)
    # node_exporter reads *.prom.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with suppress(FileNotFoundError):
        partial.unlink()
    try:
        # O_EXCL: in a folder that is others' too, nobody may have put a link there.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), MODE)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def _forget(directory: str, environment: str) -> None:
    for kind in (RUNS, TIMERS):
        with suppress(OSError):
            file_of(directory, environment, kind).unlink()


@contextmanager
def _told(directory: str) -> Iterator[None]:
    """:raises NotWritten: in the place of what went wrong"""
    try:
        yield
    except ImportError:
        raise NotWritten(
            "the Python package prometheus_client is not there; type: pip install prometheus-client"
        ) from None
    except OSError as error:
        raise NotWritten(
            f"{error.filename or directory} cannot be written: {error.strerror}; pgops_metrics_directory is the folder of "
            "node_exporter's textfile collector, which who runs Ansible may write to"
        ) from None


@contextmanager
def _locked(kept: Path) -> Iterator[None]:
    """Two runs that end at once lose nothing of each other."""
    make_private_folder(kept.parent)
    descriptor = os.open(kept.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _kept(state_directory: str | Path, environment: str) -> Path:
    return Path(state_directory).expanduser() / "metrics" / f"{environment}.json"


def _read(kept: Path) -> dict[str, Any]:
    """:return: what is known; nothing where it cannot be understood: the next runs tell it again."""
    found = timer_state.read(str(kept)) or {}
    return found if found.get("format") == FORMAT else {}


def _samples(known: Mapping[str, Any]) -> list[Sample]:
    """What an older version has kept under a name or with labels that are no more is left out."""
    found = []
    for item in known.get("samples") or []:
        with suppress(KeyError, TypeError, ValueError):
            name, labels = item["name"], item["labels"]
            if name in METRICS and set(labels) == set(METRICS[name].labels):
                found.append(Sample(name, float(item["value"]), {label: str(value) for label, value in labels.items()}))
    return found


def _plain(sample: Sample) -> dict[str, Any]:
    return {"name": sample.name, "value": sample.value, "labels": dict(sample.labels)}


def _whole(directory: str) -> str:
    return str(Path(directory).expanduser().absolute()) if directory else ""
