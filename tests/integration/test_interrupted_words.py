# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ctrl-C while a task shows its lines ends the run, with a report; Ansible's own queue would keep it waiting for ever."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import unbroken
from support.tree import TestTree

FORK = multiprocessing.get_context("fork")


class SlowQueue:
    """What a worker sends takes half a second, and all of it holds the queue's lock."""

    def __init__(self) -> None:
        self.lock = FORK.Lock()
        self.writing = FORK.Event()
        self.written = FORK.Value("i", 0)

    def display(self, text: str) -> None:
        with self.lock:
            self.writing.set()
            ends = time.monotonic() + 0.5
            while time.monotonic() < ends:
                time.sleep(0.01)
            self.written.value += 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_line_is_shown_whole_and_then_the_signal_is_obeyed(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    queue = SlowQueue()
    monkeypatch.setattr(unbroken, "_display", queue)

    def work() -> None:
        # As Ansible's workers take it.
        signal.signal(number, lambda *_: os._exit(7))
        for _ in range(20):
            unbroken.Screen().display("a line")

    worker = FORK.Process(target=work)
    worker.start()
    assert queue.writing.wait(10)
    os.kill(worker.pid or 0, number)
    worker.join(10)
    assert worker.exitcode == 7
    assert queue.lock.acquire(timeout=1), "the lock went with the worker"
    assert queue.written.value == 1


def test_a_worker_whose_action_has_ended_hands_its_result_over() -> None:
    """What it does with a signal before, meanwhile, afterwards, and when the next item of a loop begins."""
    seen = FORK.SimpleQueue()

    def work() -> None:
        task, connection = SimpleNamespace(async_val=0), SimpleNamespace(_shell=SimpleNamespace(tmpdir=None))

        def action() -> unbroken.UnbrokenAction:
            return type("Action", (unbroken.UnbrokenAction,), {"run": None})(task, connection, None, None, None, None)

        signal.signal(signal.SIGTERM, lambda *_: seen.put("obeyed"))
        first = action()
        os.kill(os.getpid(), signal.SIGTERM)
        first.cleanup()
        os.kill(os.getpid(), signal.SIGTERM)
        seen.put("handed over")
        action()
        os.kill(os.getpid(), signal.SIGTERM)

    worker = FORK.Process(target=work)
    worker.start()
    worker.join(20)
    assert worker.exitcode == 0
    assert [seen.get() for _ in range(3)] == ["obeyed", "handed over", "obeyed"]
    assert seen.empty()


class Manager:
    """What Ansible's handler has: the queue that workers write into, and the workers."""

    def __init__(self, workers: list[Any]) -> None:
        self._final_q = FORK.SimpleQueue()
        self._workers = workers

    def on_signal(self, number: int, _frame: Any) -> None:
        for worker in self._workers:
            if worker.is_alive():
                os.kill(worker.pid, number)
        raise KeyboardInterrupt


@pytest.fixture
def own_handling() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    yield
    signal.signal(signal.SIGINT, before[0])
    sys.unraisablehook = before[1]


@pytest.mark.usefixtures("own_handling")
def test_no_worker_is_told_while_it_writes() -> None:
    """One of Ansible's own, which ends where it stands."""
    manager = Manager([])

    def work() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # More than a pipe takes: it holds the queue's lock until somebody has read it.
        manager._final_q.put(b"x" * 1_000_000)
        time.sleep(60)

    worker = FORK.Process(target=work)
    manager._workers.append(worker)
    unbroken.Interrupts(manager.on_signal).obey()
    worker.start()
    ends = time.monotonic() + 10
    while manager._final_q._wlock.acquire(block=False):
        manager._final_q._wlock.release()
        assert time.monotonic() < ends, "it never wrote"
        time.sleep(0.01)
    messages: list[bytes] = []
    reader = threading.Thread(target=lambda: messages.append(manager._final_q.get()), daemon=True)
    threading.Timer(0.2, reader.start).start()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    worker.join(10)
    reader.join(10)
    assert worker.exitcode == -signal.SIGINT
    assert [len(message) for message in messages] == [1_000_000]
    assert manager._final_q._wlock.acquire(timeout=1), "the lock went with the worker"


@pytest.mark.usefixtures("own_handling")
def test_a_lock_that_is_lost_already_does_not_keep_ctrl_c_away() -> None:
    manager = Manager([])
    manager._final_q._wlock.acquire()
    unbroken.Interrupts(manager.on_signal).obey()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("own_handling")
def test_ctrl_c_waits_until_a_line_is_shown() -> None:
    """The display's lock is held while a worker is forked, too."""
    unbroken.Interrupts(Manager([]).on_signal).obey()
    shown = False
    with pytest.raises(KeyboardInterrupt):
        with unbroken._display._lock:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            shown = True
        time.sleep(5)
    assert shown


@pytest.mark.parametrize(
    ("playbook_name", "words"), [("migrate.yml", "pending, highest risk"), ("status.yml", "VERSION  ")]
)
def test_a_run_that_is_interrupted_while_it_shows_lines_ends_and_leaves_its_report(
    playbook: Any, tmp_path: Path, playbook_name: str, words: str
) -> None:
    tree = TestTree(tmp_path / "own sql")
    for number in range(1, 8):
        tree.add_sql(
            f"2026010100000{number}", f"table_{number}", f"CREATE TABLE t{number} (id int);", f"DROP TABLE t{number};"
        )
    playbook.variables["pgops_sql"] = str(tree.folder)
    seen: set[Path] = set()
    for _ in range(3):
        process = playbook.start(playbook_name)
        for line in process.stdout:
            if words in line:
                os.killpg(process.pid, signal.SIGINT)
                break
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail("it waits for ever")
        reports = set(Path(playbook.folder).rglob("*.html")) - seen
        assert len(reports) == 1
        seen |= reports


PRESSED_WHILE_IT_FORKS = """
import os, signal
from ansible.plugins.callback import CallbackBase

class CallbackModule(CallbackBase):
    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, "notification", "pressed"
    due = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        os.register_at_fork(after_in_parent=self.press)

    def press(self):
        if self.due:
            self.due = False
            os.kill(os.getpid(), signal.SIGINT)

    def v2_playbook_on_task_start(self, task, is_conditional):
        self.due = "Validating" not in task.name and "pply" in task.name
"""

# Ansible's list holds the worker before it then, closed, and its handler fails at that.
PRESSED_WHILE_IT_MAKES = PRESSED_WHILE_IT_FORKS.replace(
    "os.register_at_fork(after_in_parent=self.press)",
    """from ansible.executor.process.worker import WorkerProcess
        make = WorkerProcess.__init__

        def pressed_first(worker, *made, **named):
            self.press()
            make(worker, *made, **named)

        WorkerProcess.__init__ = pressed_first""",
)


@pytest.mark.parametrize("pressed", [PRESSED_WHILE_IT_FORKS, PRESSED_WHILE_IT_MAKES], ids=["forked", "made"])
def test_ctrl_c_is_heard_while_a_worker_begins(
    playbook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pressed: str
) -> None:
    """What a handler raises there is dropped, or taken for something else; the task of the new worker would take a minute."""
    tree = TestTree(tmp_path / "own sql")
    tree.add_sql("20260101000001", "slow", "CREATE TABLE t (id int);\nSELECT pg_sleep(60);\n", "DROP TABLE t;\n")
    playbook.variables["pgops_sql"] = str(tree.folder)
    (tmp_path / "pressed").mkdir()
    (tmp_path / "pressed" / "pressed.py").write_text(pressed, encoding="utf-8")
    given = playbook.environment()
    monkeypatch.setattr(
        playbook, "environment", lambda: {**given, "ANSIBLE_CALLBACK_PLUGINS": str(tmp_path / "pressed")}
    )
    process = playbook.start("migrate.yml")
    try:
        output = process.communicate(timeout=50)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0, output
    assert "interrupted" in output
    assert "process object is closed" not in output
    assert len(list(Path(playbook.folder).rglob("*.html"))) == 1
