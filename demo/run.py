# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""`make demo`: an embedded PostgreSQL with data, migrated by the literal `ansible-playbook migrate.yml -l ENV`.

    python demo/run.py [--env local|staging] [--rows N]     also by the variables ENV and ROWS
    python demo/run.py --start                              start the server again, without a migration
    python demo/run.py --stop                               stop the servers of this folder
    python demo/run.py --clean                              stop them and remove .local with all its data

Each environment has a server and states of its own below .local/; the exit code is the playbook's.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import importlib.util
import json
import locale
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from embedded_server import HOST, SUPERUSER, EmbeddedServer, ServerError

ROOT = Path(__file__).resolve().parents[1]
LOCAL = ROOT / ".local"
DATABASE = "white_cross"
OWNER = "white_cross_owner"
MIGRATOR = "white_cross_migrator"
BACKUP = "white_cross_backup"
RESTORE = "white_cross_restore"
APPLICATION = "white_cross_app"

# roles.sql makes them, and the OWNER, who has no password.
LOGINS = (MIGRATOR, BACKUP, RESTORE, APPLICATION)

# The sample data fits this version; the demo applies what comes after it to a database with data.
BASE_VERSION = "20250103000003"
BASE_TABLE = "system_configurations"
DEFAULT_ROWS = 20_000
MOST_ROWS = 100_000_000
# A row with its indexes is about 300 bytes; the backup, the scratch database and the log of writes come on top.
BYTES_A_ROW = 1_200
BYTES_AT_LEAST = 400 * 1024 * 1024

# The program ansible-playbook, except that Ctrl-C prints no traceback in its first second, while it imports itself, and is not
# lost in one of the functions that Python runs at a fork, where an exception is only told and ignored.
ANSIBLE_PLAYBOOK = """
import os, signal, sys
signal.signal(signal.SIGINT, lambda *_: os._exit(130))
from ansible.cli.playbook import main
signal.signal(signal.SIGINT, signal.default_int_handler)
told = sys.unraisablehook
sys.unraisablehook = lambda lost: (
    os.kill(os.getpid(), signal.SIGINT) if lost.exc_type is KeyboardInterrupt else told(lost)
)
sys.argv[0] = "ansible-playbook"
sys.exit(main())
"""

# A server each, so that local and staging share nothing. Ports are only where the search begins.
ENVIRONMENTS = {"local": (LOCAL, 54320), "staging": (LOCAL / "staging", 54420)}


class DemoError(Exception):
    """One sentence for a person: what failed and what to type next."""


class Interrupted(BaseException):
    """SIGTERM; like Ctrl-C, but with its own exit code."""


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, _on_sigterm)
    signal.signal(signal.SIGINT, _on_sigint)
    try:
        if arguments.start:
            return start(chosen_environment(arguments.env))
        if arguments.stop:
            return stop()
        if arguments.clean:
            return clean()
        return demo(chosen_environment(arguments.env), chosen_rows(arguments.rows))
    except (DemoError, ServerError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        verb = "clean" if arguments.clean else "stop" if arguments.stop else "demo"
        print(f"demo: {operating_system_sentence(error, verb)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\ndemo: stopped by Ctrl-C; 'make demo' goes on where it was, 'make stop' ends the server.", file=sys.stderr
        )
        return 130
    except Interrupted:
        print("demo: ended by SIGTERM; 'make demo' goes on where it was, 'make stop' ends the server.", file=sys.stderr)
        return 143


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo/run.py", description="See 'make help'.")
    parser.add_argument("--env", default=os.environ.get("ENV", ""))
    parser.add_argument("--rows", default=os.environ.get("ROWS", ""))
    parser.add_argument("--start", action="store_true", help="start the server again, without a migration")
    parser.add_argument("--stop", action="store_true", help="stop the servers of this folder")
    parser.add_argument("--clean", action="store_true", help="stop them and remove .local")
    return parser.parse_args()


def chosen_environment(text: str) -> str:
    # A login shell may have ENV for itself: the path of its start-up file.
    name = "local" if not text or "/" in text else text
    if name not in ENVIRONMENTS:
        raise DemoError(f"ENV={name} has no demo; type 'make demo' or 'make demo ENV=staging'.")
    return name


def chosen_rows(text: str) -> int:
    if not text:
        return DEFAULT_ROWS
    digits = text.replace("_", "")
    if not digits.isascii() or not digits.isdigit() or not 1 <= int(digits) <= MOST_ROWS:
        raise DemoError(f"ROWS={text} is no number of rows from 1 to {MOST_ROWS}; type 'make demo ROWS=2000000'.")
    return int(digits)


def operating_system_sentence(error: OSError, verb: str) -> str:
    where = f" at {error.filename}" if error.filename else ""
    cause = {
        errno.ENOSPC: "the disk is full; free some space",
        errno.EDQUOT: "the disk quota is used up; free some space",
        errno.EROFS: "the file system is read-only; move the clone to a writable one",
        errno.EACCES: "no permission; was it made by another user (sudo)? Remove it as that user",
    }.get(error.errno or 0, error.strerror or str(error))
    return f"stopped{where}: {cause}, then type 'make {verb}' again."


# Verbs


def demo(environment: str, rows: int) -> int:
    """Run it end to end; return the exit code of the playbook that failed, or 0."""
    begin = time.monotonic()
    directory, first_port = ENVIRONMENTS[environment]
    server = EmbeddedServer(directory, first_port=first_port, say=say)
    migrate = ["ansible-playbook", "migrate.yml", "-l", environment]
    with only_one():
        if server.status().state == "absent":
            require_space(LOCAL, rows)
        say(f"1/5 PostgreSQL for '{environment}'")
        started = server.start()
        version = ask(server, "SHOW server_version", database="postgres")
        state = "started" if started else "was running already"
        detail(f"{version} on {HOST}:{server.port}, {state}; data {shown(server.data)}, log {shown(server.log)}")

        say(f"2/5 Database {DATABASE} and the roles that the playbooks use")
        make_roles_and_database(server)
        detail(
            ", ".join(name.removeprefix("white_cross_") for name in (OWNER, *LOGINS))
            + f"; passwords in {shown(server.passfile)}"
        )
        write_inventory(environment, server)
        write_psql_environment(environment, server)

        base_log = directory / "demo-base.log"
        if exists(server, BASE_TABLE):
            say(f"3/5 Base schema: there already ({BASE_VERSION})")
        else:
            say(f"3/5 Base schema, output in {shown(base_log)}")
            code = run_base(migrate, environment, base_log)
            if code != 0:
                return code

        say("4/5 Sample data")
        load_sample_data(server, rows)

        say("5/5 The migration")
        before = newest_report(directory, environment)
        code = run_playbook(migrate, environment)
        give_rights(server)
        finish(environment, server, code, before, time.monotonic() - begin)
    return code


def start(environment: str) -> int:
    directory, first_port = ENVIRONMENTS[environment]
    server = EmbeddedServer(directory, first_port=first_port, say=say)
    if server.status().state == "absent":
        raise DemoError(f"There is no server of '{environment}' in {shown(directory)} yet; type 'make demo' first.")
    with only_one():
        started = server.start()
        write_inventory(environment, server)
        write_psql_environment(environment, server)
    say(f"The PostgreSQL of '{environment}' {'runs' if started else 'was running already'} on {HOST}:{server.port}.")
    return 0


def stop() -> int:
    for environment, (directory, _port) in ENVIRONMENTS.items():
        if EmbeddedServer(directory, say=say).stop():
            say(f"Stopped the PostgreSQL of '{environment}'; its data stays, 'make demo' starts it again.")
        else:
            say(f"No PostgreSQL of '{environment}' is running.")
    return 0


def clean() -> int:
    found = [EmbeddedServer(directory, say=say).clean() for directory, _port in reversed(ENVIRONMENTS.values())]
    if LOCAL.exists():
        shutil.rmtree(LOCAL)
    say(
        f"Removed {shown(LOCAL)} with its servers, backups and reports."
        if any(found)
        else "Nothing of the demo is left."
    )
    return 0


# Steps


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """One demo a clone at a time; the lock goes with its holder, so a killed run leaves none."""
    LOCAL.mkdir(exist_ok=True)
    with open(LOCAL / "demo.lock", "a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise DemoError(
                f"Another 'make demo' works in this folder (process {handle.read().strip() or 'unknown'}): "
                "wait for it, or end it with Ctrl-C."
            ) from None
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield


def make_roles_and_database(server: EmbeddedServer) -> None:
    """Every statement may run twice: a killed run is simply completed."""
    from psycopg2 import sql

    with contextlib.closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(own_sql("roles.sql"))
        for role in LOGINS:
            secret = sql.Literal(server.password(role))
            cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), secret))
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
        if cursor.fetchone() is None:
            cursor.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(OWNER))
            )
    give_rights(server)


def give_rights(server: EmbeddedServer) -> None:
    """What each role may do follows from how far the chain is applied."""
    with contextlib.closing(server.connect(DATABASE)) as connection, connection.cursor() as cursor:
        cursor.execute(own_sql("rights.sql"))


def own_sql(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def write_inventory(environment: str, server: EmbeddedServer) -> None:
    """Let the embedded server answer for the example host of staging.

    A second inventory source beside the repository's own: host variables win over those of the group, so nothing in
    inventories/ is changed for the demo.
    """
    if environment == "local":
        return
    import yaml

    example = yaml.safe_load((ROOT / "inventories" / f"{environment}.yml").read_text())
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "pgops_host": HOST,
        "pgops_port": server.port,
        "pgops_sslmode": "prefer",
        "pgops_sslrootcert": "",
        "pgops_passfile": str(server.passfile),
        "pgops_bindir": str(server.bindir),
        "pgops_state_directory": str(server.directory / "state"),
        "backup_directory": str(server.directory / "backups"),
    }
    hosts = {host: variables for host in example[environment]["hosts"]}
    folder = LOCAL / "inventory"
    folder.mkdir(exist_ok=True)
    text = "# Written by 'make demo': the example hosts, answered by the embedded server.\n"
    text += yaml.safe_dump({environment: {"hosts": hosts}}, sort_keys=False)
    partial = folder / f".{environment}.partial"
    partial.write_text(text)
    partial.replace(folder / f"{environment}.yml")


def inventory_sources() -> str:
    """The value of ANSIBLE_INVENTORY for an environment that the demo answers; Ansible splits it at commas."""
    sources = [ROOT / "inventories", LOCAL / "inventory"]
    if "," in str(ROOT):
        sources = [source.relative_to(ROOT) for source in sources]
    return ",".join(map(str, sources))


def write_psql_environment(environment: str, server: EmbeddedServer) -> None:
    """Write .local/psql.env, for `. .local/psql.env && psql`; for ansible-playbook it sets PATH and inventory too."""
    path = f"{shlex.quote(str(server.bindir))}:{shlex.quote(str(Path(sys.executable).parent))}"
    values = {
        "PGHOST": HOST,
        "PGPORT": str(server.port),
        "PGDATABASE": DATABASE,
        "PGUSER": MIGRATOR,
        "PGPASSFILE": str(server.passfile),
    }
    lines = [f"# Written by 'make demo' for '{environment}'; use it as: . .local/psql.env && psql"]
    # A second reading in one shell must not make PATH longer.
    lines.append(f'case ":$PATH:" in *:{path}:*) ;; *) PATH={path}:"$PATH"; export PATH ;; esac')
    lines += [f"{name}={shlex.quote(value)}; export {name}" for name, value in values.items()]
    if environment == "local":
        lines.append("unset ANSIBLE_INVENTORY")
    else:
        lines.append(f"ANSIBLE_INVENTORY={shlex.quote(inventory_sources())}; export ANSIBLE_INVENTORY")
    for target in (server.directory / "psql.env", LOCAL / "psql.env"):
        partial = target.with_name("psql.env.partial")
        partial.write_text("\n".join(lines) + "\n")
        partial.replace(target)


def run_base(migrate: Sequence[str], environment: str, log: Path) -> int:
    command = [*migrate, "-e", f"migrate_target={BASE_VERSION}"]
    begin = time.monotonic()
    with open(log, "w") as output:
        code = run_playbook(command, environment, output)
    if code == 0:
        detail(f"done in {time.monotonic() - begin:.0f} s")
    else:
        lines = log.read_text(errors="replace").rstrip().splitlines()
        print("\n".join(lines[-25:]), file=sys.stderr)
        print(
            f"demo: the base schema was not applied (exit {code}); all of its output is in {shown(log)}.",
            file=sys.stderr,
        )
    return code


def load_sample_data(server: EmbeddedServer, rows: int) -> None:
    """Load once, in one transaction, as the application; a killed load leaves nothing behind."""
    if ask(server, "SELECT EXISTS (SELECT FROM districts)"):
        there = count_rows(server)
        detail(f"{sum(there.values()):,} rows are there already; for another size: make clean, then make demo ROWS=N")
        return
    require_space(server.data, rows)
    import psycopg2
    import psycopg2.extensions
    import psycopg2.extras

    begin = time.monotonic()
    # Without it Ctrl-C waits for the end of the statement.
    psycopg2.extensions.set_wait_callback(psycopg2.extras.wait_select)
    try:
        with contextlib.closing(server.connect(DATABASE)) as connection:
            connection.autocommit = False
            with connection, connection.cursor() as cursor:
                # Every key is right by its making, and verify counts the rows without a parent: checking each of two
                # million as well takes a third longer. The rights are still those of the application.
                cursor.execute("SET session_replication_role = replica")
                cursor.execute(f"SET ROLE {APPLICATION}")
                cursor.execute("SET demo.rows = %s", (str(rows),))
                cursor.execute(own_sql("sample_data.sql"))
        # As the owner of the server: statistics belong to the data, and the first health report should be about those.
        with contextlib.closing(server.connect(DATABASE)) as connection, connection.cursor() as cursor:
            cursor.execute("VACUUM (ANALYZE)")
    except psycopg2.Error as error:
        reason = str(error).strip().splitlines()[0]
        raise DemoError(
            f"The sample data could not be loaded into {DATABASE} ({reason}); nothing of it is there, see "
            f"{shown(server.log)} and type 'make demo' again."
        ) from error
    finally:
        psycopg2.extensions.set_wait_callback(None)
    tables = count_rows(server)
    detail(f"{sum(tables.values()):,} rows in {len(tables)} tables, loaded in {time.monotonic() - begin:.1f} s")


def require_space(where: Path, rows: int) -> None:
    """Refuse before anything is half done; backups and scratch databases are part of the need."""
    free = shutil.disk_usage(where).free
    needed = BYTES_AT_LEAST + rows * BYTES_A_ROW
    if free < BYTES_AT_LEAST + BYTES_A_ROW:
        raise DemoError(
            f"Only {free / 1e6:.0f} MB are free at {shown(where)}, and the demo needs {needed / 1e6:.0f}: free some space, "
            "then type 'make demo' again."
        )
    if free < needed:
        raise DemoError(
            f"ROWS={rows} needs about {needed / 1e9:.1f} GB with its backup, and {free / 1e9:.1f} GB are free at "
            f"{shown(where)}: type 'make demo ROWS={(free - BYTES_AT_LEAST) // BYTES_A_ROW}'."
        )


def count_rows(server: EmbeddedServer) -> dict[str, int]:
    tables = ask(
        server,
        "SELECT coalesce(array_agg(relname::text ORDER BY relname), '{}') FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    )
    from psycopg2 import sql

    return {table: ask(server, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))) for table in tables}


def exists(server: EmbeddedServer, table: str) -> bool:
    return ask(server, f"SELECT to_regclass('public.{table}') IS NOT NULL") is True


def ask(server: EmbeddedServer, query: Any, *, database: str = DATABASE) -> Any:
    with contextlib.closing(server.connect(database, user=SUPERUSER)) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


# The playbook


def run_playbook(command: Sequence[str], environment: str, output: Any = None) -> int:
    """Run it in the repository, its output on the screen or in a file; wait for its own clean end on Ctrl-C."""
    prefix = "" if environment == "local" else f"ANSIBLE_INVENTORY={shlex.quote(inventory_for_reading())} "
    detail(f"$ {prefix}{shlex.join(command)}")
    sys.stdout.flush()
    if importlib.util.find_spec("ansible") is None:
        raise DemoError(
            f"ansible-core is not installed for {sys.executable}: type 'make demo', which makes .venv first."
        )
    process = subprocess.Popen(
        [sys.executable, "-c", ANSIBLE_PLAYBOOK, *command[1:]],
        cwd=ROOT,
        env=playbook_environment(environment),
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
    )
    interrupted: BaseException | None = None
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt as signalled:
            # The terminal sent it to the playbook as well, which ends at the next safe point and says so.
            interrupted = signalled
        except Interrupted as signalled:
            interrupted = signalled
            process.send_signal(signal.SIGINT)
    # Also with exit code 0: interrupted between two of its stages, ansible-playbook may end without a word.
    if interrupted is not None:
        raise interrupted
    # Killed by a signal: as a shell would say it.
    return code if code >= 0 else 128 - code


def playbook_environment(environment: str) -> dict[str, str]:
    # What psql's variables or another project's Ansible settings say must not decide where the demo goes.
    values = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PG") and name not in ("ANSIBLE_INVENTORY", "ENV", "ROWS")
    }
    values["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), values.get("PATH", os.defpath)])
    # Ansible ignores an ansible.cfg in a folder that all may write to, unless it is named.
    values["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    if environment != "local":
        values["ANSIBLE_INVENTORY"] = inventory_sources()
    try:
        usable = locale.setlocale(locale.LC_ALL, "") is not None
        usable = usable and locale.nl_langinfo(locale.CODESET).upper() in ("UTF-8", "UTF8")
    except locale.Error:
        usable = False
    if not usable:
        # Ansible refuses to start without a UTF-8 locale that exists.
        values["LC_ALL"] = "C.UTF-8"
    return values


def inventory_for_reading() -> str:
    return f"inventories,{shown(LOCAL)}/inventory"


def newest_report(directory: Path, environment: str) -> Path | None:
    reports = (directory / "state" / "reports" / environment).glob("*.html")
    return max(reports, key=lambda path: path.stat().st_mtime, default=None)


def what_was_done(report: Path | None) -> str:
    """What the run's report has: a run that finds nothing to apply makes no backup either."""
    try:
        document = json.loads(report.with_suffix(".json").read_text(encoding="utf-8")) if report is not None else {}
    except (OSError, ValueError):
        document = {}
    done = {step["phase"] for step in document.get("steps", []) if step["result"] == "changed"}
    if {"prove", "apply"} <= done:
        return "its backup was proved by a restore before the first change"
    if "apply" in done:
        return "without a proved backup, as its phases are set"
    return "nothing was pending, so nothing was backed up or changed; it was verified"


def finish(environment: str, server: EmbeddedServer, code: int, before: Path | None, seconds: float) -> None:
    report = newest_report(server.directory, environment)
    say("")
    if code != 0:
        say(
            f"The migration ended with exit code {code} after {seconds:.0f} s; the sentence above says what is applied."
        )
    else:
        told = what_was_done(report if report != before else None)
        say(f"Done in {seconds:.0f} s: '{environment}' is migrated, {told}.")
    if report is not None and report != before:
        say(f"  report   {shown(report)}")
    say(f"  server   {HOST}:{server.port}; 'make stop' ends it, 'make clean' removes it")
    say("")
    say("Try next:")
    say(f"  . {shown(LOCAL / 'psql.env')}")
    say(f"  ansible-playbook status.yml -l {environment}")
    say(f"  ansible-playbook rollback.yml -l {environment} -e rollback_strategy=down -e rollback_confirm={DATABASE}")
    if (server.bindir / "psql").exists():
        say("  psql -c '\\dt'")
    else:
        say("  psql is not in this wheel; any psql 18 connects after the first line")


# The screen


def say(line: str) -> None:
    if re.match(r"\d/\d ", line) and sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        line = f"\033[1m{line}\033[0m"
    if _ctrl_c_seen:
        raise KeyboardInterrupt
    print(line, flush=True)


def detail(line: str) -> None:
    say(f"    {line}")


def shown(path: Path) -> str:
    """The path as a person in the repository would type it."""
    with contextlib.suppress(ValueError):
        path = path.relative_to(ROOT)
    return shlex.quote(str(path))


_ctrl_c_seen = False


def _on_sigint(_signal: int, _frame: object) -> None:
    # An exception that is raised inside a destructor or a callback of C is lost; what the next line sees is not.
    global _ctrl_c_seen
    _ctrl_c_seen = True
    raise KeyboardInterrupt


def _on_sigterm(_signal: int, _frame: object) -> None:
    raise Interrupted


if __name__ == "__main__":
    sys.exit(main())
