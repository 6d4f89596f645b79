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
    settled: int = 0
    debits: list[int] = field(default_factory=list)
    credits: list[int] = field(default_factory=list)

    @property
    def available(self) -> int:
        return self.settled + sum(self.credits) - sum(self.debits) + self.credit_limit


class Reference:
    """A ledger of one currency in memory."""

    def __init__(self) -> None:
        self.accounts: dict[str, ReferenceAccount] = {}
        self.accepted: dict[str, tuple[str, int]] = {}

    def open(self, account_id: str, opening: int, credit_limit: int) -> None:
        account = ReferenceAccount(credit_limit=credit_limit)
        if opening:
            account.credits.append(opening)
        self.accounts[account_id] = account

    def post(self, account_id: str, change: int, key: str) -> str:
        """Answer 'accepted', 'replayed' or the code of a refusal."""
        if key in self.accepted:
            same = self.accepted[key] == (account_id, change)
            return "replayed" if same else "idempotency_key_reused"
        account = self.accounts[account_id]
        if change < 0 and account.available + change < 0:
            return "insufficient_available"
        if change > 0 and account.available + change > BALANCE_MAX:
            return "balance_limit_exceeded"
        (account.credits if change > 0 else account.debits).append(abs(change))
        self.accepted[key] = (account_id, change)
        return "accepted"

    def settle(self) -> None:
        for account in self.accounts.values():
            account.settled += sum(account.credits) - sum(account.debits)
            account.debits, account.credits = [], []
