"""PostgreSQL's own tools for backup and restore, run on private servers.

A base backup is a copy of a cluster's files with the WAL written meanwhile; a dump is one snapshot
of its contents. Neither reaches past its own end: what was committed later needs archived WAL.
"""

import shutil
from pathlib import Path

from app.infra.embedded import DATABASE, EmbeddedPostgres, start_postgres
from app.infra.privileges import give
from tests.cluster import HOST

_DUMP_FILE = "subbalance.dump"


def take_base_backup(server: EmbeddedPostgres, name: str) -> Path:
    """Copy a running cluster and check the copy against its manifest; returns its folder."""
    target = _folder_for(server, name) / "cluster"
    server._run(
        "pg_basebackup",
        ["-D", str(target), *_where(server), "--checkpoint=fast", "--wal-method=stream"]
        + ([] if server._durable else ["--no-sync"]),
    )
    server._run("pg_verifybackup", ["--quiet", str(target)])
    return target


def restore_base_backup(
    backup: Path, folder: Path, port: int, *, durable: bool
) -> EmbeddedPostgres:
    """Put a copy of the files into an empty folder and start a server on it, which recovers."""
    _choose_port(folder, port)
    server = EmbeddedPostgres(folder, durable=durable)
    shutil.copytree(backup, server._cluster, symlinks=True)
    server.start()
    return server


def take_dump(server: EmbeddedPostgres, name: str) -> Path:
    """Dump a running database; returns the file."""
    target = _folder_for(server, name) / _DUMP_FILE
    server._run("pg_dump", [*_where(server), "-d", DATABASE, "-Fc", "-f", str(target)])
    return target


def restore_dump(dump: Path, folder: Path, port: int, *, durable: bool) -> EmbeddedPostgres:
    """Make a new, empty cluster and load a dump into it."""
    _choose_port(folder, port)
    server = start_postgres(folder, lambda _text: None, durable=durable)
    options = ["-d", DATABASE, "--exit-on-error", "--no-owner", str(dump)]
    server._run("pg_restore", [*_where(server), *options])
    return server


def _choose_port(folder: Path, port: int) -> None:
    """Make an empty folder whose server will listen on a port; 0 for any."""
    folder.mkdir(parents=True)
    if port:
        (folder / "port").write_text(str(port))


def _folder_for(server: EmbeddedPostgres, name: str) -> Path:
    """A folder that whoever runs the server may write to."""
    folder = server._way.folder / name
    folder.mkdir(mode=0o700)
    give(folder, server._way.owner)
    return folder


def _where(server: EmbeddedPostgres) -> list[str]:
    return ["-h", HOST, "-p", str(server.port), "-U", DATABASE]
