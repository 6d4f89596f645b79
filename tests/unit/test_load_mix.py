"""What a load asks: shares, repetitions, and that the arithmetic agrees with the bytes."""

import json
from collections import Counter

import pytest

from app.kit.money import minor_units, parse_amount
from bench.load.mix import Mix, Requests, total_changes

COUNT = 20_000
FIVE = tuple(f"MULTI{number:03}" for number in range(1, 6))
MIXES = [
    Mix("a", ("ACC001",)),
    Mix("b", FIVE, credit_share=0.2),
    Mix("c", FIVE, hot_share=0.6, duplicates=0.3, repeat_after=4),
    Mix("d", FIVE, batch=7, random_keys=True),
]


def asked(message: bytes) -> tuple[bytes, dict[str, object]]:
    head, _, body = message.partition(b"\r\n\r\n")
    lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert int(lines[b"Content-Length"]) == len(body)
    return lines[b"Idempotency-Key"], json.loads(body)


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.run)
def test_the_bytes_ask_what_the_arithmetic_says(mix: Mix) -> None:
    requests = Requests(mix)
    for number in range(200):
        origin = requests.origin(number)
        key, body = asked(requests.message(number))
        assert key == requests.key(origin)
        assert body == requests.body(origin)
        items = body["transactions"] if mix.batch else [body]
        changes = [
            (mix.accounts.index(item["account_id"]), _change_minor(item))  # type: ignore[index]
            for item in items  # type: ignore[union-attr]
        ]
        assert changes == list(requests.movements(origin))


def _change_minor(item: dict[str, str]) -> int:
    amount_minor = minor_units(parse_amount(item["amount"]), 2)
    return amount_minor if item["type"] == "credit" else -amount_minor


def test_accounts_have_equal_shares_unless_one_is_hot() -> None:
    equal, hot = Requests(Mix("run", FIVE)), Requests(Mix("run", FIVE, hot_share=0.6))
    assert set(_uses(equal).values()) == {COUNT // 5}
    uses = _uses(hot)
    assert uses[0] == pytest.approx(0.6 * COUNT, rel=0.02)
    assert all(uses[account] == pytest.approx(0.1 * COUNT, rel=0.06) for account in range(1, 5))


def _uses(requests: Requests) -> Counter[int]:
    return Counter(account for n in range(COUNT) for account, _ in requests.movements(n))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_credits_have_their_share_on_every_account(share: float) -> None:
    requests = Requests(Mix("run", FIVE, credit_share=share))
    credit_counts = Counter(
        account for n in range(COUNT) for account, change in requests.movements(n) if change > 0
    )
    for account in range(5):
        assert credit_counts[account] == pytest.approx(share * COUNT / 5, rel=0.03)


def test_repetitions_have_their_share_and_repeat_an_original_of_the_same_process() -> None:
    requests = Requests(Mix("run", FIVE, duplicates=0.1, repeat_after=6))
    repeats = [number for number in range(COUNT) if requests.origin(number) != number]
    assert len(repeats) == pytest.approx(0.1 * COUNT, rel=0.02)
    for number in repeats:
        origin = requests.origin(number)
        assert origin < number
        assert (number - origin) % 6 == 0
        assert requests.origin(origin) == origin
        assert requests.is_repeated(origin, COUNT)
        assert requests.message(number) == requests.message(origin)


@pytest.mark.parametrize("random_keys", [False, True])
def test_no_two_originals_share_a_key(random_keys: bool) -> None:
    requests = Requests(Mix("run", ("ACC001",), random_keys=random_keys))
    keys = [requests.key(number) for number in range(COUNT)]
    assert len(set(keys)) == COUNT
    assert (keys == sorted(keys)) is not random_keys


def test_what_was_refused_in_a_batch_is_not_added_up() -> None:
    requests = Requests(Mix("run", ("ACC001", "ACC002"), batch=4))
    movements = list(requests.movements(3))
    credited, debited, counts = total_changes(requests, [3], {3: frozenset({0, 2})})
    kept = [movements[1], movements[3]]
    assert counts == Counter(account for account, _ in kept)
    assert sum(credited.values()) - sum(debited.values()) == sum(change for _, change in kept)
