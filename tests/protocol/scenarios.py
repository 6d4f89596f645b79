"""The scenarios: small worlds, each searched exhaustively, and one big one for random walks."""

from tests.protocol.world import HAZARDS, Leg, Request, Scenario


def debit(identity: str, amount: int = 1, shard: int = 0) -> Request:
    """A debit on one account."""
    return Request(identity, (Leg(shard, -amount),))


def credit(identity: str, amount: int = 1, shard: int = 0) -> Request:
    """A credit on one account."""
    return Request(identity, (Leg(shard, amount),))


def transfer(identity: str, source: int, target: int) -> Request:
    """A transfer of one unit between the accounts of two shards."""
    return Request(identity, (Leg(source, -1), Leg(target, 1)))


def limit(identity: str, new_limit: int) -> Request:
    """A change of account 0's credit limit."""
    return Request(identity, (Leg(0, 0),), new_limit)


SCENARIOS: dict[str, Scenario] = {
    "retry": Scenario(
        title="a debit is sent twice while another wants the same money; Redis fails",
        balances=(1,),
        requests=(debit("a"), debit("a"), debit("b")),
        hazards=frozenset({"restart", "flush", "key"}),
    ),
    "twins": Scenario(
        title="a debit is sent twice, the money is there once, and the reaper gives back",
        balances=(1,),
        requests=(debit("a"), debit("a")),
        openings_max=1,
        has_reaper=True,
    ),
    "failover": Scenario(
        title="snapshots and lagging replicas take the place of Redis, and it theirs",
        balances=(1,),
        requests=(debit("a"), debit("b")),
        hazards=frozenset({"image", "failback"}),
    ),
    "switches": Scenario(
        title="the epoch changes again and again, whoever decides",
        balances=(1,),
        requests=(debit("a"), debit("b")),
        hazards=frozenset({"flush"}),
        openings_max=3,
    ),
    "credit": Scenario(
        title="a credit is sent twice while a debit waits for it and the reaper is at work",
        balances=(0,),
        requests=(credit("c"), credit("c"), debit("b")),
        openings_max=1,
        has_reaper=True,
    ),
    "copies": Scenario(
        title="replies of Redis are lost, messages to it arrive late",
        balances=(0,),
        requests=(credit("c"), debit("b")),
        hazards=frozenset({"redis_reply", "redis_copy"}),
        faults_max=2,
        openings_max=1,
        has_reaper=True,
    ),
    "journal": Scenario(
        title="replies of the journal are lost, calls of it arrive late",
        balances=(1,),
        requests=(debit("a"), debit("b")),
        hazards=frozenset({"journal_reply", "journal_copy"}),
        has_reaper=True,
    ),
    "fallback": Scenario(
        title="PostgreSQL decides, replies are lost, calls arrive late, Redis takes over again",
        balances=(1,),
        requests=(debit("a"), debit("b"), credit("c")),
        hazards=frozenset({"journal_reply", "journal_copy"}),
        mode="postgres",
    ),
    "restore": Scenario(
        title="PostgreSQL loses the end of its history",
        balances=(0,),
        requests=(credit("c"), debit("b")),
        hazards=frozenset({"restore"}),
        openings_max=3,
    ),
    "shards": Scenario(
        title="transfers between two shards, each of which switches by itself",
        balances=(1, 0),
        requests=(transfer("t", 0, 1), transfer("u", 1, 0)),
        openings_max=3,
    ),
    "limit": Scenario(
        title="the credit limit is lowered and raised while a debit uses it",
        balances=(0,),
        requests=(limit("l", 0), limit("m", 2), debit("b")),
        limit=1,
    ),
}

MARKET = Scenario(
    title="everything at once, for random walks",
    balances=(1, 1),
    requests=(
        transfer("t", 0, 1),
        transfer("t", 0, 1),
        transfer("u", 1, 0),
        debit("a"),
        debit("a"),
        credit("c"),
        credit("d", shard=1),
        debit("b", shard=1),
        limit("l", 0),
        limit("m", 2),
    ),
    hazards=frozenset(HAZARDS),
    faults_max=6,
    openings_max=10,
    rounds_max=5,
    limit=1,
    has_reaper=True,
)

# For each guard the scenario in which its lack shows soonest, and what is then broken first.
SHOWN_BY: dict[str, tuple[str, str]] = {
    "token": ("retry", "redis 0 believes in 1 that postgres has not"),
    "replication_id": ("failover", "redis 0 believes in 1 that postgres has not"),
    "epoch_word": ("restore", "c/0 is over and still holds 1"),
    "load_order": ("switches", "redis 0 believes in 1 that postgres has not"),
    "first_load": ("switches", "redis 0 believes in 1 that postgres has not"),
    "loaded_set": ("retry", "redis 0 believes in 1 that postgres has not"),
    "redis_client_retries": ("retry", "redis 0 believes in 1 that postgres has not"),
    "sending_numbers": ("copies", "c/0 is over and still holds 1"),
    "told_numbers": ("copies", "redis 0 believes in 1 that postgres has not"),
    "refused_numbers": ("copies", "b/1 is over and still holds -1"),
    "told_again": ("copies", "b/1 is over and still holds -1"),
    "record": ("credit", "redis 0 believes in 1 that postgres has not"),
    "attempt": ("credit", "redis 0 believes in 1 that postgres has not"),
    "credit_wait": ("credit", "redis 0 believes in 1 that postgres has not"),
    "confirm_first": ("credit", "credit c is acknowledged and cannot be spent"),
    "tell_repeated": ("credit", "credit c is acknowledged and cannot be spent"),
    "journal_fence": ("switches", "account 0 is overdrawn"),
    "fence_word": ("restore", "account 0 is overdrawn"),
    "separate_statements": ("switches", "redis 0 believes in 1 that postgres has not"),
    "postgres_identity": ("restore", "redis 0 believes in 1 that postgres has not"),
    "unique_id": ("credit", "an identity is journaled twice"),
    "look_up_first": ("retry", "a was accepted before, and is refused"),
    "names_in_flight": ("retry", "a was refused while another sending was being accepted"),
    "names_at_once": ("twins", "a was refused while another sending was being accepted"),
    "outcome": ("journal", "redis 0 believes in 1 that postgres has not"),
    "refusal_record": ("fallback", "b was refused and applied later"),
    "tombstone": ("journal", "redis 0 believes in 1 that postgres has not"),
    "release_on_void": ("journal", "a/0 is over and still holds -1"),
    "release_on_fence": ("shards", "t/0 is over and still holds 1"),
    "shard_fences": ("shards", "redis 1 has lost sight of 1"),
    "registration": ("shards", "redis 1 has lost sight of 1"),
    "limit_order": ("limit", "redis 0 believes in 1 that postgres has not"),
    "limit_version": ("limit", "account 0 is overdrawn"),
    "process_numbers": ("restore", "b is acknowledged and not in the journal"),
}
# A guard that is not missed as long as there is another one, and where to see both missing.
REDUNDANT: dict[str, tuple[str, str]] = {
    "redis_identity": ("replication_id", "failover"),
    "compare_and_set": ("fence_word", "switches"),
}
