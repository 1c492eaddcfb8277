# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One hook: a command without a shell or a request to an application on loopback, within its time limit."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.hook import (
    Call,
    HookFailed,
    last_words,
    run,
    secret_of,
    without,
)
from support.application import Application, certificate


def python(program: str, *arguments: str, **options: object) -> Call:
    return Call(argv=[sys.executable, "-c", program, *arguments], **options)  # type: ignore[arg-type]


def why(call: Call) -> str:
    with pytest.raises(HookFailed) as caught:
        run(call)
    return str(caught.value)


def test_a_command_gets_its_arguments_as_they_are_and_no_shell_reads_them(tmp_path: Path) -> None:
    told = tmp_path / "told"
    words = ["$HOME; touch gone", "a b", "*"]
    run(python("import sys; open(sys.argv[1], 'w').write(repr(sys.argv[2:]))", str(told), *words))
    assert told.read_text() == repr(words)
    assert "cannot be started: No such file" in why(Call(argv=["/no/such; true"]))


def test_a_command_that_fails_is_told_with_the_last_line_of_its_errors() -> None:
    told = why(
        python("import sys; print('first', file=sys.stderr); print('pool is busy', file=sys.stderr); sys.exit(3)")
    )
    assert told == f"{sys.executable} ended with exit code 3 and said: pool is busy"


def test_a_command_over_its_time_is_killed_with_its_children(tmp_path: Path) -> None:
    late = tmp_path / "late"
    begun = time.monotonic()
    child = f"import time; time.sleep(1.5); open({str(late)!r}, 'w')"
    told = why(
        python(
            "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])", child, timeout=0.6,
        )
    )  # fmt: skip
    assert told.endswith("was not done within 0.6 s and was killed")
    assert time.monotonic() - begun < 1.4
    time.sleep(1.2)  # until the child would have written
    assert not late.exists()


def test_what_a_start_command_leaves_running_is_neither_waited_for_nor_killed(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    begun = time.monotonic()
    child = f"import time; time.sleep(0.5); open({str(alive)!r}, 'w')"
    run(python("import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])", child, timeout=10))
    assert time.monotonic() - begun < 0.5
    deadline = time.monotonic() + 5
    while not alive.exists() and time.monotonic() < deadline:
        time.sleep(0.05)  # until what was left running has written
    assert alive.exists()


def test_a_request_has_its_method_headers_and_body() -> None:
    with Application() as application:
        run(Call(url=f"{application.url}/drain?pool=a", method="POST", headers={"X-Token": "t"}, body="{}"))
    assert application.asked == ["POST /drain?pool=a"]
    assert application.headers[0]["X-Token"] == "t"
    assert application.bodies == [b"{}"]


def test_another_status_than_the_expected_is_a_failure_and_no_redirect_is_followed() -> None:
    with Application() as application:
        application.answers = {"/": 503, "/moved": 302}
        assert why(Call(url=f"{application.url}/?token=hunter2")) == f"{application.url}/ answered 503, expected 2xx"
        assert "answered 302" in why(Call(url=f"{application.url}/moved"))
        run(Call(url=f"{application.url}/", status=[404, 503]))
        assert "answered 200, expected 204" in why(Call(url=f"{application.url}/ok", status=[204]))
    assert "GET /elsewhere" not in application.asked
    assert "does not answer: Connection refused" in why(Call(url=application.url))


def test_an_answer_that_drips_is_cut_off_at_the_time_limit() -> None:
    with Application() as application:
        application.body, application.drip_s = b"." * 100, 0.1
        begun = time.monotonic()
        assert "has not answered for 0.5 s" in why(Call(url=application.url, timeout=0.5))
        assert time.monotonic() - begun < 2


def test_a_certificate_is_checked(tmp_path: Path) -> None:
    pem = certificate(tmp_path)
    with Application(pem) as application:
        assert "shows a certificate that is not believed" in why(Call(url=application.url))
        run(Call(url=application.url, ca_path=str(pem)))
    assert application.asked == ["GET /"]


@pytest.mark.parametrize("url", ["ftp://here/", "file:///etc/passwd", "http://", "http://a b/", "https://[::1"])
def test_what_is_no_address_is_not_asked(url: str) -> None:
    assert "none that begins with https://" in why(Call(url=url))


def test_a_user_in_an_address_is_refused_and_not_told() -> None:
    told = why(Call(url="https://ada:hunter2@127.0.0.1/"))
    assert "has a user in it" in told
    assert "hunter2" not in told


def test_a_secret_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text("hunter2\n")
    assert secret_of(str(file), "header_files") == "hunter2"
    file.chmod(0o640)
    with pytest.raises(HookFailed, match="which others may read; chmod 600"):
        secret_of(str(file), "header_files")
    with pytest.raises(HookFailed, match="No such file"):
        secret_of(str(tmp_path / "none"), "header_files")


def test_a_secret_that_a_command_repeats_is_taken_out() -> None:
    assert without("login ada:hunter2 failed", ["hunter2", "a"]) == "login ada:*** failed"


def test_each_line_of_a_secret_is_taken_out() -> None:
    key = "-----BEGIN KEY-----\nhunter2first\nhunter2last\n"
    assert without("cannot use hunter2last", [key]) == "cannot use ***"
    program = "import os, sys; print(os.environ['KEY'], file=sys.stderr); sys.exit(1)"
    assert why(python(program, environment={"KEY": key}, secrets=[key])).endswith("and said: ***")


@pytest.mark.parametrize(("before", "after"), [(0, 20), (190, 20), (0, 65536 - 20)])
def test_of_a_secret_no_half_is_left_where_errors_are_cut(before: int, after: int) -> None:
    program = "import sys; b, a = map(int, sys.argv[1:]); sys.exit('x' * b + 'hunter2' * 4 + 'y' * a)"
    assert "unter2" not in why(python(program, str(before), str(after), secrets=["hunter2" * 4]))


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        (
            ('psql:fill.sql:3: ERROR:  duplicate key value violates unique constraint "students_mrn_key"\n'
            "DETAIL:  Key (mrn, name)=(4711, Jane Doe) already exists.\n"),
            'psql:fill.sql:3: ERROR:  duplicate key value violates unique constraint "students_mrn_key"',
        ),
        (
            "ERROR:  new row violates a check\nDETAIL:  Failing row contains (4711, Jane\nDoe).\nCONTEXT:  COPY s, line 1",
            "ERROR:  new row violates a check",
        ),
        (
            'ERROR:  invalid input syntax for type integer: "Jane Doe"\nLINE 1: SELECT \'Jane Doe\'::int\n               ^\n',
            'ERROR:  invalid input syntax for type integer: "…"',
        ),
        ('ERROR:  invalid input syntax for type integer: "Jane\nDoe"', 'ERROR:  invalid input syntax for type integer: "…"'),
        (
            "org.postgresql.util.PSQLException: ERROR: duplicate key\n  Detail: Key (mrn)=(4711) already exists.",
            "org.postgresql.util.PSQLException: ERROR: duplicate key",
        ),
        ("ERROR: duplicate key; DETAIL: Key (mrn)=(4711) already exists.", "ERROR: duplicate key;"),
        (
            ("sqlalchemy.exc.IntegrityError: (psycopg2.errors.NotNullViolation) null value\n"
            "DETAIL:  Failing row contains (Jane).\n\n[parameters: {'name': 'Jane'}]"),
            "sqlalchemy.exc.IntegrityError: (psycopg2.errors.NotNullViolation) null value",
        ),
        (
            "psql: ERROR:  Phone 555 of Jane is not valid\nHINT:  ask Jane\nCONTEXT:  PL/pgSQL function public.chk() line 1 at RAISE\n",
            "psql: ERROR: PL/pgSQL function public.chk() line 1 at RAISE raised an error",
        ),
        (
            ('psycopg2.errors.RaiseException: no Jane\nCONTEXT:  SQL statement "INSERT INTO s VALUES (\'Jane\')"\n'
            'PL/pgSQL function "Chk"() line 1 at RAISE\n'),
            "psycopg2.errors.RaiseException: PL/pgSQL function raised an error",
        ),
        ("DETAIL:  Key (mrn)=(4711) already exists.", ""),
        ("ERROR: first\npool is busy\nHINT:  try later\n\n", "pool is busy"),
        ('No such container "web"\n', 'No such container "web"'),
    ],
)  # fmt: skip
def test_what_postgresql_repeats_of_a_row_is_not_told(errors: str, told: str) -> None:
    assert last_words(errors) == told


def test_a_hook_is_tried_again_within_its_time() -> None:
    with Application() as application:
        application.answers = {"/": [503, 503, 200]}
        assert run(Call(url=f"{application.url}/", retries=5, delay=0.01))["tries"] == 3
        application.answers = {"/": 503}
        assert "answered 503" in why(Call(url=f"{application.url}/", retries=2, delay=0.01))
        assert len(application.asked) == 6
        begun = time.monotonic()
        why(Call(url=f"{application.url}/", retries=10_000, delay=0.05, timeout=0.3))
        assert time.monotonic() - begun < 1


def test_of_metrics_only_the_known_numbers_are_kept() -> None:
    with Application() as application:
        application.body = b'{"error_rate": 0.01, "p99_ms": 120, "throughput": 85.5, "user": "Ada", "p50_ms": "fast"}'
        found = run(Call(url=application.url, metrics=True))
        assert found["metrics"] == {"error_rate": 0.01, "p99_ms": 120.0, "throughput": 85.5}
        assert "error_rate is 0.01, above its limit of 0.001" in why(
            Call(url=application.url, metrics=True, limits={"error_rate": 0.001})
        )
        assert "throughput is 85.5, below its limit of 90" in why(
            Call(url=application.url, metrics=True, limits={"throughput": 90})
        )
        assert "p95_ms has a limit and is not told" in why(
            Call(url=application.url, metrics=True, limits={"p95_ms": 90})
        )
        application.body = b"[1]"
        assert "its answer is no JSON object" in why(Call(url=application.url, metrics=True))
