"""What the model is made of: values that never change, one of them for each state of the world.

A *task* is one sending of a client's request, carried by some process. A process that dies is a
task that takes no further step, so death needs no step of its own. Money is counted in whole
units, each account lives on the shard of the same number, and what an account has means what may
be spent: balance, entries and credit limit together.
"""

from typing import Any, NamedTuple

Attempt = tuple[int, int]
"""Process number and round: one sending of a batch."""
Entry = tuple[str, Attempt]
"""Identity of a request, and the attempt that reserved or journaled it."""


class Guards(NamedTuple):
    """What keeps money safe; each can be taken away to see what it is for."""

    token: bool = True
    """A script does nothing unless the epoch's token is in Redis."""
    redis_identity: bool = True
    """The token names the run id, and a script compares it with the server it runs on."""
    replication_id: bool = True
    """Likewise the replication id, which changes when a demoted master is promoted again."""
    epoch_word: bool = True
    """The token ends in a word that no other opening has."""
    load_order: bool = True
    """An account is read for a load after the epoch was learnt, not before."""
    first_load: bool = True
    """A load leaves an account alone that is there already."""
    loaded_set: bool = True
    """The token's hash notes loaded accounts; one that is noted and gone ends the epoch."""
    redis_client_retries: bool = True
    """The Redis client never sends a message again by itself, the token's least of all."""
    sending_numbers: bool = True
    """Every sending of a slot has a new number, and an older one does nothing."""
    told_numbers: bool = True
    """A sending that is told again what the attempt has reserved counts as the newest, too."""
    refused_numbers: bool = True
    """So does one that reserved nothing: it was refused, or an account was not loaded."""
    told_again: bool = True
    """What an attempt has reserved is told again, not reserved again."""
    record: bool = True
    """A confirm acts only while the attempt's record is there, and removes it."""
    attempt: bool = True
    """Confirm and reaper act on the record of the matching attempt, not of the same request."""
    credit_wait: bool = True
    """A credit may be spent only after its journal entry."""
    confirm_first: bool = True
    """Redis is told of a journaled credit before the client is answered."""
    journal_fence: bool = True
    """The journal compares the epoch it is told with the one that rules."""
    fence_word: bool = True
    """It compares the epoch's word too, for after a restore a number may come again."""
    separate_statements: bool = True
    """It reads the epoch in a statement after the one that takes the lock."""
    compare_and_set: bool = True
    """An epoch is opened only by one who knows the epoch that rules."""
    postgres_identity: bool = True
    """The fence compares PostgreSQL's identity with the one recorded at the opening."""
    unique_id: bool = True
    """An identity is journaled once for ever."""
    tell_repeated: bool = True
    """Likewise before a repetition of it is answered, whoever journaled it."""
    look_up_first: bool = True
    """Before an identity is refused it is looked up in the journal."""
    names_in_flight: bool = True
    """So are the names that others have in flight: who is among them waits and is decided anew."""
    names_at_once: bool = True
    """These are read at the instant of the decision, not later: nobody can give back between."""
    outcome: bool = True
    """After a sending without an answer, only an outcome ends an attempt."""
    refusal_record: bool = True
    """In mode postgres a repeated sending that is refused leaves a VOID row for its attempt."""
    tombstone: bool = True
    """The reaper commits a VOID row before it releases."""
    release_on_void: bool = True
    """An attempt that meets its tombstone releases what it may hold before it goes again."""
    release_on_fence: bool = True
    """An attempt that one shard fences releases what it holds on the others."""
    shard_fences: bool = True
    """The journal's fence checks every shard of a transfer, not only the first."""
    registration: bool = True
    """The credit side of a transfer is in flight on its shard before the journal."""
    limit_order: bool = True
    """A stricter limit is applied in Redis before it is committed."""
    limit_version: bool = True
    """A limit is committed only over the version that it was computed from."""
    process_numbers: bool = True
    """No two processes ever have the same number, even if PostgreSQL forgets."""


ALL_GUARDS = Guards()


class Ruling(NamedTuple):
    """An epoch of one shard: who decides, which life of Redis, and the word of the opening."""

    mode: str
    epoch: int
    run: int = 0
    replication: int = 0
    word: int = 0


class Record(NamedTuple):
    """An attempt in flight on a shard: the signed change that it reserved."""

    entry: Entry
    change: int


class Keys(NamedTuple):
    """All keys of one epoch in Redis; the token is the ruling it was written for."""

    token: Ruling
    is_loaded: bool = False
    available: int | None = None
    """What may be spent of the account; None where its key is not there."""
    flight: frozenset[Record] = frozenset()
    newest: tuple[tuple[int, int], ...] = ()
    """For slots with delayed copies: the number of the newest copy that was overtaken."""


class Redis(NamedTuple):
    """One Redis server; `image` is what its snapshot or its replica last had."""

    run: int
    replication: int
    keys: tuple[Keys, ...]
    image: tuple[Keys, ...] | None = None


class Postgres(NamedTuple):
    """What is committed: who rules each shard, what was accepted, which attempts are void."""

    rulings: tuple[Ruling, ...]
    recorded: tuple[int, ...]
    """For each shard the timeline its epoch was opened in."""
    journal: frozenset[Entry] = frozenset()
    voids: frozenset[Attempt] = frozenset()
    timeline: int = 0
    processes: int = 0
    limit: tuple[int, int] = (0, 0)
    """The credit limit of account 0 and its version."""


class Copy(NamedTuple):
    """A message whose sender has given up on it, and which may still arrive."""

    script: str
    shard: int
    ruling: Ruling
    slot: int = -1
    number: int = 0
    entry: Entry | None = None
    change: int = 0
    value: Any = None


class JournalCopy(NamedTuple):
    """Likewise a call of the journal."""

    task: int
    attempt: Attempt
    rulings: tuple[Ruling, ...]
    change: int
    version: int
    is_repeated: bool


class Task(NamedTuple):
    """How far a sending has got. What a finished one knew is forgotten."""

    phase: str = "new"
    answer: str = ""
    number: int = -1
    round: int = 0
    rulings: tuple[Ruling, ...] = ()
    left: tuple[int, ...] = ()
    """Positions of the legs that this phase has yet to do."""
    in_doubt: bool = False
    """A sending of this phase was not answered."""
    value: Any = None
    """What a phase needs: the amount to load, the fence as it was seen, whether a refused request
    is in flight, or what to tell Redis, what to do then and the answer.
    """
    change: int = 0
    version: int = 0
    """What a change of limit was computed from."""
    rivals: frozenset[Attempt] = frozenset()
    """Other attempts of the identity that were in flight when Redis refused this one."""

    @property
    def attempt(self) -> Attempt:
        """The attempt id of the current round."""
        return self.number, self.round


class Reaping(NamedTuple):
    """What the reaper found out about an attempt and has yet to tell Redis."""

    shard: int
    ruling: Ruling
    record: Record
    word: str


class State(NamedTuple):
    """The world at one instant."""

    postgres: Postgres
    redis: tuple[Redis, ...]
    tasks: tuple[Task, ...]
    network: frozenset[Copy | JournalCopy] = frozenset()
    reaping: Reaping | None = None
    backup: Postgres | None = None
    openings: int = 0
    faults: int = 0


class Leg(NamedTuple):
    """One side of a request: a signed change of the account on a shard."""

    shard: int
    change: int


class Request(NamedTuple):
    """One sending of a request. Sendings of one request have the same identity."""

    identity: str
    legs: tuple[Leg, ...]
    new_limit: int | None = None


class Scenario(NamedTuple):
    """What may happen, and how often; the search is exhaustive within these bounds."""

    title: str
    balances: tuple[int, ...]
    requests: tuple[Request, ...]
    hazards: frozenset[str] = frozenset()
    """Kinds of faults that may happen, from `HAZARDS`."""
    faults_max: int = 1
    openings_max: int = 2
    rounds_max: int = 2
    mode: str = "redis"
    limit: int = 0
    has_reaper: bool = False
    may_fall_back: bool = True


HAZARDS = {
    "restart": "Redis restarts empty",
    "image": "Redis restarts from an old snapshot, or a lagging replica takes its place",
    "failback": "a demoted master resyncs from a lagging replica and is promoted again",
    "flush": "Redis is flushed",
    "key": "Redis loses the account's key",
    "redis_reply": "a reply of Redis is lost",
    "redis_copy": "a message to Redis is delayed, and sent again meanwhile",
    "journal_reply": "a reply of the journal is lost",
    "journal_copy": "a call of the journal is delayed, and sent again meanwhile",
    "restore": "PostgreSQL is restored to an earlier moment, or a lagging standby is promoted",
}


class World:
    """A scenario under a set of guards, with what follows from them."""

    def __init__(self, scenario: Scenario, guards: Guards = ALL_GUARDS) -> None:
        """Prepare the tables that every step looks up."""
        self.scenario = scenario
        self.guards = guards
        self.requests = scenario.requests
        self.hazards = scenario.hazards
        self.shards = range(len(scenario.balances))
        self.changes = {
            request.identity: dict(request.legs)
            for request in scenario.requests
            if request.new_limit is None
        }

    def start(self) -> State:
        """An epoch is open on each shard, nothing is loaded and nobody has begun."""
        word = 1 if self.guards.epoch_word else 0
        ruling = Ruling(self.scenario.mode, 1, 1, 1, word)
        redis = Redis(1, 1, (Keys(ruling),) if ruling.mode == "redis" else ())
        postgres = Postgres(
            (ruling,) * len(self.shards),
            (0,) * len(self.shards),
            limit=(self.scenario.limit, 0),
        )
        tasks = (Task(),) * len(self.requests)
        return State(postgres, (redis,) * len(self.shards), tasks, openings=1)

    def available(self, postgres: Postgres, shard: int) -> int:
        """What an account has according to PostgreSQL: balance, entries and limit together."""
        total = self.scenario.balances[shard] + (postgres.limit[0] if shard == 0 else 0)
        for identity, _ in postgres.journal:
            total += self.changes.get(identity, _NO_CHANGE).get(shard, 0)
        return total


_NO_CHANGE: dict[int, int] = {}
