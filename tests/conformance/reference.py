"""The reference model: what the ledger must decide, written plainly and independently.

It knows nothing of batches, epochs or servers; integers of minor units in, words out.
"""

from dataclasses import dataclass, field

AMOUNT_MAX = 10**18 - 1
BALANCE_MAX = 9 * 10**18


@dataclass
class ReferenceAccount:
    """One account: what it may still spend is its balance plus its credit limit."""

    credit_limit: int = 0
    frozen: str = "none"
    closed: bool = False
    settled: int = 0
    settled_count: int = 0
    debits: list[int] = field(default_factory=list)
    credits: list[int] = field(default_factory=list)

    @property
    def available(self) -> int:
        return self.settled + sum(self.credits) - sum(self.debits) + self.credit_limit

    @property
    def version(self) -> int:
        return self.settled_count + len(self.credits) + len(self.debits)


@dataclass
class ReferenceHold:
    """An amount set aside, by the name it was placed under."""

    account_id: str
    credit_id: str | None
    remaining: int
    status: str = "HELD"


class Reference:
    """A ledger of one currency in memory."""

    def __init__(self) -> None:
        self.holds: dict[str, ReferenceHold] = {}
        self.accounts: dict[str, ReferenceAccount] = {}
        self.accepted: dict[str, tuple[object, ...]] = {}
        self.reversals: dict[str, str] = {}

    def open(self, account_id: str, opening: int, credit_limit: int) -> None:
        account = ReferenceAccount(credit_limit=credit_limit)
        if opening:
            account.credits.append(opening)
        self.accounts[account_id] = account

    def post(
        self,
        account_id: str,
        change: int,
        key: str,
        expected: tuple[int | None, int | None] = (None, None),
    ) -> str:
        """Answer 'accepted', 'replayed' or the code of a refusal; `expected` are the version and
        what is at least available.
        """
        if key in self.accepted:
            same = self.accepted[key] == (account_id, change)
            return "replayed" if same else "idempotency_key_reused"
        account = self.accounts[account_id]
        word = self._refusal(account, change)
        if not word.startswith("account_"):
            word = self._unmet(account, expected) or word
        if word:
            return word
        (account.credits if change > 0 else account.debits).append(abs(change))
        self.accepted[key] = (account_id, change)
        return "accepted"

    @staticmethod
    def _unmet(account: ReferenceAccount, expected: tuple[int | None, int | None]) -> str:
        version, available = expected
        if version is not None and version != account.version:
            return "version_mismatch"
        if available is not None and account.available < available:
            return "available_below_expected"
        return ""

    def reverse(self, name: str, key: str) -> str:
        """Take back what was posted under a name; answer as `post` does."""
        posted = self.accepted.get(name, ("",))
        asked = ("reversal", name)
        if posted[0] not in self.accounts:
            return "not_reversible" if name in self.accepted else "transaction_not_found"
        if self.accepted.get(key) == asked:
            return "replayed"
        if name in self.reversals:
            return "already_reversed"
        if key in self.accepted:
            return "idempotency_identity_conflict"
        account, change = self.accounts[str(posted[0])], -int(str(posted[1]))
        word = self._refusal(account, change)
        if word:
            return word
        (account.credits if change > 0 else account.debits).append(abs(change))
        self.accepted[key], self.reversals[name] = asked, key
        return "accepted"

    def transfer(self, transfers: tuple[tuple[str, str, int], ...], key: str) -> str:
        """Do (debit, credit, amount) transfers, all or none; answer as `post` does."""
        if key in self.accepted:
            return "replayed" if self.accepted[key] == transfers else "idempotency_key_reused"
        before = {name: (list(a.debits), list(a.credits)) for name, a in self.accounts.items()}
        legs = [(debit, -amount) for debit, _, amount in transfers]
        for name, change in legs + [(credit, amount) for _, credit, amount in transfers]:
            account = self.accounts[name]
            word = self._refusal(account, change)
            if word:
                for each, (debits, credits_) in before.items():
                    self.accounts[each].debits, self.accounts[each].credits = debits, credits_
                return word
            (account.credits if change > 0 else account.debits).append(abs(change))
        self.accepted[key] = transfers
        return "accepted"

    def hold(self, key: str, account_id: str, amount: int, credit_id: str | None) -> str:
        """Set an amount aside under a key and an id of its own, which goes with the key; answer
        as `post` does.
        """
        asked = ("hold", account_id, amount, credit_id)
        before = self.accepted.get(key, ("",))[0]
        if before == "end" or isinstance(before, tuple):
            return "idempotency_identity_conflict"
        if key in self.accepted:
            return "replayed" if self.accepted[key] == asked else "idempotency_key_reused"
        word = self._refusal(self.accounts[account_id], -amount)
        if word:
            return word
        self.accounts[account_id].debits.append(amount)
        self.holds[key] = ReferenceHold(account_id, credit_id, amount)
        self.accepted[key] = asked
        return "accepted"

    def end(self, key: str, name: str, amount: int | None, *, final: bool | None) -> str:
        """Capture an amount of a hold, or all that is left, and release the rest if it is final;
        an amount of zero releases only.
        """
        asked = ("end", name, amount, final)
        if key in self.accepted:
            return "replayed" if self.accepted[key] == asked else "idempotency_key_reused"
        hold = self.holds[name]
        if hold.status != "HELD":
            return "hold_ended"
        captured = hold.remaining if amount is None else amount
        if captured > hold.remaining:
            return "hold_exceeded"
        ends = final or amount in (None, 0)
        released = hold.remaining - captured if ends else 0
        credits_ = [(hold.credit_id, captured)] if hold.credit_id and captured else []
        credits_ += [(hold.account_id, released)] if released else []
        for account_id, credit in credits_:
            word = self._refusal(self.accounts[account_id], credit)
            if word:
                return word
        for account_id, credit in credits_:
            self.accounts[account_id].credits.append(credit)
        hold.remaining -= captured + released
        if not hold.remaining:
            hold.status = "CAPTURED" if captured else "RELEASED"
        self.accepted[key] = asked
        return "accepted"

    def held(self, account_id: str) -> int:
        """What is held of an account."""
        return sum(each.remaining for each in self.holds.values() if each.account_id == account_id)

    @staticmethod
    def _refusal(account: ReferenceAccount, change: int) -> str:
        """The code an account refuses a change with, or nothing."""
        if account.closed:
            return "account_closed"
        if account.frozen in ("all", "debit" if change < 0 else "credit"):
            return "account_frozen"
        if change < 0 and account.available + change < 0:
            return "insufficient_available"
        if change > 0 and account.available + change > BALANCE_MAX:
            return "balance_limit_exceeded"
        return ""

    def limit(self, account_id: str, credit_limit: int) -> str:
        """Change a credit limit: answer 'done' or the code of a refusal."""
        account = self.accounts[account_id]
        balance = account.available - account.credit_limit
        if credit_limit == account.credit_limit:
            return "done"
        if account.closed:
            return "account_closed"
        if credit_limit < account.credit_limit and balance + credit_limit < 0:
            return "limit_in_use"
        if credit_limit > account.credit_limit and balance + credit_limit > BALANCE_MAX:
            return "balance_limit_exceeded"
        account.credit_limit = credit_limit
        return "done"

    def freeze(self, account_id: str, frozen: str) -> str:
        account = self.accounts[account_id]
        if account.closed and frozen != account.frozen:
            return "account_closed"
        account.frozen = frozen
        return "done"

    def close(self, account_id: str) -> str:
        account = self.accounts[account_id]
        is_empty = account.available == account.credit_limit and not self.held(account_id)
        if not account.closed and not is_empty:
            return "account_not_empty"
        account.closed = True
        return "done"

    def settle(self) -> None:
        for account in self.accounts.values():
            account.settled += sum(account.credits) - sum(account.debits)
            account.settled_count = account.version
            account.debits, account.credits = [], []
