"""Puts the contestants on the stage and measures the planned cells, round by round."""

from collections.abc import Collection, Sequence

from app.ledger.codes import Mode
from bench.compare.alike import require_alike
from bench.compare.contestants import (
    Contestant,
    Empty,
    Ledger,
    Locks,
    Naive,
    Say,
    Service,
    measured,
    warm_up,
)
from bench.compare.plan import in_turns
from bench.compare.row_locks import INSTALL, find_pgbench
from bench.compare.samples import (
    EMPTY,
    NAIVE,
    POSTGRES_MODE,
    ROW_LOCKS,
    SERVICE,
    Cell,
    Sample,
)
from bench.compare.stage import Stage

_ROWS_DATABASE = "subbalance_rows"
_WARM_CONNECTIONS = 64


class Field:
    """Everybody a plan needs, up at once, with the accounts open."""

    def __init__(self, stage: Stage, names: Collection[str], accounts: int, say: Say) -> None:
        """Start whoever is named; a rival whose program is missing is left out.

        The schema's database must have the accounts already.
        """
        self.stage = stage
        self._say = say
        self._accounts = accounts
        self.absent: dict[str, str] = {}
        self.contestants: dict[str, Contestant] = {}
        if POSTGRES_MODE in names:
            url = stage.make_database(_ROWS_DATABASE, stage.schema_database)
            self._add_service(POSTGRES_MODE, "rows", Mode.POSTGRES, url)
        if SERVICE in names:
            self._add_service(SERVICE, "api", Mode.REDIS, stage.database_url(stage.schema_database))
        if NAIVE in names:
            self.contestants[NAIVE] = Naive(stage, self._accounts)
        if EMPTY in names:
            self.contestants[EMPTY] = Empty(stage)
        if ROW_LOCKS in names:
            self._add_row_locks()

    def verified(self) -> list[str]:
        """Let every service prove its books as a whole; ends the run when one cannot."""
        told = []
        for competitor, contestant in self.contestants.items():
            if isinstance(contestant, Service):
                proof = contestant.verify()
                if proof["status"] != "verified":
                    raise SystemExit(f"wrong: {competitor} says of its books: {proof}")
                extent = "whole" if proof["complete"] else "as far as it came in bounded time"
                told.append(f"{competitor}: its own verification, {extent}: {proof['compared']}")
        return told

    def warm_up(self) -> None:
        """Use every account once; what that leaves in the books is checked like a sample."""
        require_alike(self.contestants)
        for competitor, contestant in self.contestants.items():
            connections = 1 if competitor == ROW_LOCKS else _WARM_CONNECTIONS
            warm_up(contestant, Cell(competitor, self._accounts, connections))

    def measure(self, wanted: Sequence[Cell], rounds: int, seconds: float) -> list[Sample]:
        """Measure every cell in every round, rivals in turns; each sample's books are checked."""
        samples: list[Sample] = []
        for number in range(1, rounds + 1):
            for cell in in_turns(wanted, number):
                contestant = self.contestants.get(cell.competitor)
                if contestant is not None:
                    samples.append(measured(contestant, cell, number, seconds, self._say))
        return samples

    def _add_service(self, competitor: str, name: str, mode: Mode, url: str) -> None:
        environment = {"DATABASE_URL": url, "REDIS_URL": self.stage.own_redis()}
        ledger = Ledger(self.stage, name, mode, environment)
        self.contestants[competitor] = Service(ledger, name)

    def _add_row_locks(self) -> None:
        pgbench = find_pgbench()
        if pgbench is None:
            self.absent[ROW_LOCKS] = INSTALL
            self._say(f"not measured: {ROW_LOCKS}: {INSTALL}")
        else:
            self.contestants[ROW_LOCKS] = Locks(self.stage, pgbench)
