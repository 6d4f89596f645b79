"""`subbalance import FILE.csv`: checked first, then sent, every row at most once."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from subbalance import errors, limits
from subbalance.command.context import Context, command
from subbalance.command.output import REFUSED, UNAVAILABLE
from subbalance.command.rows import ACCOUNTS, KEY, NOTES, Complaint, Row, RowFile, UnusableFile
from subbalance.command.sending import Became, Report, Sending

_SHOWN = 100
_WRONG_USE = 2


@click.command("import")
@click.argument(
    "path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--name", help="The import's name, part of its rows' keys; else the file's name.")
@click.option("--skip-bad", is_flag=True, help="Send the good rows where some are bad.")
@click.option(
    "--batch", "batch_rows", type=click.IntRange(1, limits.IMPORT_BATCH_ROWS_MAX), default=500
)
@click.option(
    "--at-once", type=click.IntRange(1, limits.CONNECTIONS), help="Accounts or transfers at once."
)
@click.option("--max-unclear", "unclear_max", type=click.IntRange(1), default=3, show_default=True)
@command
def import_file(
    context: Context,
    path: Path,
    name: str | None,
    skip_bad: bool,
    batch_rows: int,
    at_once: int | None,
    unclear_max: int,
) -> None:
    """Send the rows of a CSV file: accounts, transactions or transfers, by its columns.

    All rows are checked before any is sent. A row's key is its idempotency_key column, or made of
    the import's name and of what the row says, so the same file again moves nothing twice: run it
    again after an interruption, or after errors that left rows unclear. What is refused goes to
    FILE.refused.csv with its line, its key and the reason; it can be corrected and imported.

    Transactions and transfers are sent in the file's order. Stops after --max-unclear requests
    without a clear answer.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows = RowFile(file, name or path.name)
            good, complaints, bad_count = _check(rows)
        except UnusableFile as error:
            raise click.UsageError(f"{path}: {error}") from error
        for complaint in complaints:
            _complain(path, complaint)
        if bad_count > len(complaints):
            click.echo(f"{path}: and {bad_count - len(complaints)} more bad rows", err=True)
        if bad_count and not skip_bad:
            click.echo(f"{path}: {bad_count} bad rows, nothing was sent", err=True)
            raise SystemExit(_WRONG_USE)
        side_by_side = at_once or (limits.IMPORT_AT_ONCE if rows.kind is ACCOUNTS else 1)
        sending = Sending(context.ledger, rows.kind, batch_rows, side_by_side)
        report = Report(rows=good + bad_count, bad=bad_count, not_sent=good)
        refused_path = path.with_name(f"{path.name}.refused.csv")
        with _Refused(refused_path, rows.columns) as refused:
            results = sending.send(_noting_bad(rows, refused), unclear_max)
            try:
                stopped = _count(report, refused, _with_progress(results, good))
            except KeyboardInterrupt:
                # Of what is counted as not sent, the request under way may have been done.
                context.output.show(report)
                raise
        report.refused_file = str(refused_path) if refused.count else None
    context.output.show(report)
    raise SystemExit(context.output.fail(stopped) if stopped else _exit_code(report))


def _check(rows: RowFile) -> tuple[int, list[Complaint], int]:
    """Read the whole file: how many rows are good, the first complaints, how many there are."""
    good = bad = 0
    complaints: list[Complaint] = []
    for each in rows.rows():
        if isinstance(each, Row):
            good += 1
            continue
        bad += 1
        if len(complaints) < _SHOWN:
            complaints.append(each)
    return good, complaints, bad


def _complain(path: Path, complaint: Complaint) -> None:
    place = f", column {complaint.column}" if complaint.column else ""
    click.echo(f"{path}: line {complaint.line}{place}: {complaint.why}", err=True)


def _noting_bad(rows: RowFile, refused: "_Refused") -> Iterator[Row]:
    """Go through the good rows, and write the bad ones to those that are refused."""
    for each in rows.rows():
        if isinstance(each, Row):
            yield each
        else:
            refused.write_bad(each)


def _count(
    report: Report, refused: "_Refused", results: Iterable[Became]
) -> errors.LedgerError | None:
    """Count what became of the rows as it is known, and write down what was refused.

    Returns the error that ended the import, if one did: a request that was refused as a whole.
    """
    try:
        for became in results:
            _count_one(report, refused, became)
    except errors.LedgerError as error:
        return error
    return None


def _count_one(report: Report, refused: "_Refused", became: Became) -> None:
    setattr(report, became.word, getattr(report, became.word) + 1)
    report.not_sent -= 1
    if became.word == "refused":
        refused.write(became)
    elif became.word == "unclear" and report.unclear <= _SHOWN:
        click.echo(f"line {became.row.line} is unclear: {became.code}: {became.reason}", err=True)


def _with_progress(results: Iterator[Became], total: int) -> Iterator[Became]:
    """Show a bar on a terminal; it is on stderr and never in what is piped on."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("import", total=total)
        for each in results:
            progress.advance(task)
            yield each


def _exit_code(report: Report) -> int:
    if report.unclear or report.not_sent:
        return UNAVAILABLE
    return REFUSED if report.refused or report.bad else 0


class _Refused:
    """The file of what this run refused, which takes its place when the run is over."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        self.count = 0
        self._path = path
        self._all_columns = columns
        self._columns = [name for name in columns if name not in NOTES]
        if KEY not in self._columns and "amount" in self._columns:
            self._columns.append(KEY)
        self._draft = path.with_name(f"{path.name}.partial")
        self._file: IO[str]

    def __enter__(self) -> "_Refused":
        """Begin the file before anything is sent; it must not fail later."""
        try:
            self._file = self._draft.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise click.UsageError(f"what is refused cannot be written: {error}") from error
        csv.writer(self._file).writerow([*self._columns, *NOTES])
        return self

    def write(self, became: Became) -> None:
        """Write a refused row, with its key, so that it stays the same intention."""
        values = {**became.row.values, KEY: became.row.key}
        self._add(values, became.row.line, became.code, became.reason)

    def write_bad(self, complaint: Complaint) -> None:
        """Write a row that was bad, as it is."""
        values = dict(zip(self._all_columns, complaint.cells, strict=False))
        self._add(values, complaint.line, "bad_row", f"{complaint.column}: {complaint.why}")

    def _add(self, values: dict[str, str], line: int, code: str, reason: str) -> None:
        self.count += 1
        cells = [values.get(name, "") for name in self._columns]
        csv.writer(self._file).writerow([*cells, str(line), code, reason])

    def __exit__(self, *_: object) -> None:
        """Put the file in the place of an earlier run's; without a refusal there is none."""
        self._file.close()
        if self.count:
            self._draft.replace(self._path)
        else:
            self._draft.unlink()
            self._path.unlink(missing_ok=True)
