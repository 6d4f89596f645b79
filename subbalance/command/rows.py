"""A CSV file as rows that can be sent: what is in them, what is wrong with them, their keys.

A row's key is made of the import's name, of what the row says and of how many rows before it say
the same. So a row keeps its key when other rows are added, changed or taken away, and two equal
rows of a file are two payments, while the same file sent again is none.
"""

import csv
import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import IO, NamedTuple

import msgspec

from subbalance import limits
from subbalance.call import checked_key

KEY = "idempotency_key"
NOTES = ("refused_line", "refused_code", "refused_reason")
METADATA = "metadata."
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,49}", re.ASCII)
_AMOUNT = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?", re.ASCII)
_REFERENCE_LENGTH_MAX = 140
_KEY_DIGITS = 40


class Complaint(NamedTuple):
    """What is wrong with a row, and where."""

    line: int
    column: str
    why: str
    cells: list[str]


class Row(msgspec.Struct, frozen=True):
    """A row: its line in the file, its values by column without the empty ones, its key."""

    line: int
    values: dict[str, str]
    key: str


class UnusableFile(Exception):
    """The file as a whole cannot be read; the message says why."""


class Kind(NamedTuple):
    """What the rows of a file are: the columns that they need and may have, with their checks."""

    name: str
    needed: dict[str, Callable[[str], str | None]]
    optional: dict[str, Callable[[str], str | None]]


def _id(text: str) -> str | None:
    return None if _ID.fullmatch(text) else "not an account id"


def _amount(text: str) -> str | None:
    if not _AMOUNT.fullmatch(text):
        return "not a plain decimal number"
    return None if text.strip("0.") else "an amount is greater than zero"


def _zero_or_amount(text: str) -> str | None:
    return None if _AMOUNT.fullmatch(text) else "not a plain decimal number"


def _type(text: str) -> str | None:
    return None if text in ("debit", "credit") else "neither debit nor credit"


def _reference(text: str) -> str | None:
    return None if len(text) <= _REFERENCE_LENGTH_MAX else "longer than 140 characters"


def _key(text: str) -> str | None:
    try:
        checked_key(text)
    except ValueError:
        return "not a key of 1 to 255 visible ASCII characters"
    return None


def _instant(text: str) -> str | None:
    try:
        has_zone = datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        has_zone = False
    return None if has_zone else "not an instant like 2026-11-21T07:29:45Z"


def _any(_: str) -> str | None:
    return None


TRANSACTIONS = Kind(
    "transactions",
    {"account_id": _id, "type": _type, "amount": _amount},
    {"reference": _reference, "effective_at": _instant, KEY: _key},
)
TRANSFERS = Kind(
    "transfers",
    {"debit_account_id": _id, "credit_account_id": _id, "amount": _amount},
    {"reference": _reference, KEY: _key},
)
ACCOUNTS = Kind(
    "accounts",
    {"account_id": _id},
    {"currency": _any, "opening_balance": _zero_or_amount, "credit_limit": _zero_or_amount},
)


class RowFile:
    """A CSV file of one kind, which can be read again and again."""

    def __init__(self, file: IO[str], name: str) -> None:
        """Read the header; raises `UnusableFile` where it is of no kind."""
        self._file = file
        self._name = name
        self.columns = self._header(csv.reader(file, strict=True))
        self.kind = _kind_of(self.columns)

    def rows(self) -> Iterator[Row | Complaint]:
        """Read the rows from the first; a row with something wrong is its first complaint."""
        self._file.seek(0)
        reader = csv.reader(self._file, strict=True)
        self._header(reader)
        equal_rows: dict[bytes, int] = {}
        used: set[str] = set()
        count = 0
        try:
            for cells in reader:
                if not any(cells):
                    continue
                count += 1
                if count > limits.IMPORT_ROWS_MAX:
                    raise UnusableFile(f"more than {limits.IMPORT_ROWS_MAX} rows")
                yield self._row(reader.line_num, cells, equal_rows, used)
        except (csv.Error, UnicodeDecodeError) as error:
            raise UnusableFile(f"after line {reader.line_num}: {error}") from error

    def _header(self, reader: Iterator[list[str]]) -> list[str]:
        try:
            columns = [name.strip() for name in next(reader, [])]
        except (csv.Error, UnicodeDecodeError) as error:
            raise UnusableFile(f"line 1: {error}") from error
        twice = {name for name in columns if columns.count(name) > 1}
        if twice:
            raise UnusableFile(f"line 1: column {sorted(twice)[0]!r} is there twice")
        return columns

    def _row(
        self, line: int, cells: list[str], equal_rows: dict[bytes, int], used: set[str]
    ) -> Row | Complaint:
        if len(cells) != len(self.columns):
            why = f"{len(cells)} values where there are {len(self.columns)} columns"
            return Complaint(line, "", why, cells)
        pairs = zip(self.columns, (cell.strip() for cell in cells), strict=True)
        values = {name: value for name, value in pairs if value and name not in NOTES}
        for name, check in {**self.kind.needed, **self.kind.optional}.items():
            if name not in values:
                if name in self.kind.needed:
                    return Complaint(line, name, "missing", cells)
                continue
            wrong = check(values[name])
            if wrong:
                return Complaint(line, name, f"{wrong}: {values[name][:60]!r}", cells)
        if values.get("debit_account_id") == values.get("credit_account_id", ""):
            why = "the same account on both sides"
            return Complaint(line, "credit_account_id", why, cells)
        name, key = self._named(values, equal_rows)
        if key in used:
            return Complaint(line, name, f"another row has it already: {key[:60]!r}", cells)
        used.add(key)
        return Row(line, values, key)

    def _named(self, values: dict[str, str], equal_rows: dict[bytes, int]) -> tuple[str, str]:
        """Name a row: by its account, by the key it has, or by one that is made here."""
        if self.kind is ACCOUNTS:
            return "account_id", values["account_id"]
        if KEY in values:
            return KEY, values[KEY]
        said = msgspec.json.encode([self._name, self.kind.name, sorted(values.items())])
        digest = hashlib.sha256(said).digest()
        number = equal_rows[digest] = equal_rows.get(digest, 0) + 1
        key = hashlib.sha256(digest + number.to_bytes(8, "big")).hexdigest()[:_KEY_DIGITS]
        return KEY, f"import-{key}"


def metadata_of(values: dict[str, str]) -> dict[str, str] | None:
    """The entries of metadata among a row's columns."""
    found = {
        name.removeprefix(METADATA): value
        for name, value in values.items()
        if name.startswith(METADATA)
    }
    return found or None


def _kind_of(columns: list[str]) -> Kind:
    """Tell by its columns what a file holds; a column that nobody knows is refused."""
    names = set(columns)
    for kind in (TRANSFERS, TRANSACTIONS, ACCOUNTS):
        if kind.needed.keys() <= names:
            known = {*kind.needed, *kind.optional, *NOTES}
            unknown = [
                name for name in columns if name not in known and not name.startswith(METADATA)
            ]
            if unknown:
                raise UnusableFile(f"line 1: {kind.name} have no column {unknown[0]!r}")
            return kind
    raise UnusableFile(
        "line 1: the columns are account_id, type, amount (transactions); debit_account_id,"
        " credit_account_id, amount (transfers); or account_id (accounts)"
    )
