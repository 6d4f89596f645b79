"""A client of the Sub-Balance ledger.

    from subbalance import Client

    with Client("http://localhost:8082") as ledger:
        ledger.debit("ACC001", "12.50", key="order-4711")

Every write of money has a key: the caller's, or one that is drawn for the call. What may be
repeated is, with the same key, within the bounds of the client's `Policy`; so money moves once,
whatever is lost on the way. `AsyncClient` has the same methods as coroutines.
"""

from subbalance.answers import (
    Account,
    Balance,
    BalanceAt,
    Bulk,
    BulkResult,
    Delivery,
    Event,
    Events,
    Foreseen,
    ForeseenBulk,
    Group,
    Health,
    HealthDetails,
    Hold,
    NewWebhook,
    Pending,
    Problem,
    Statement,
    StatementRow,
    Transaction,
    Transfer,
    Verification,
    Webhook,
)
from subbalance.attempts import Policy
from subbalance.client import AsyncClient, Client
from subbalance.errors import (
    InsufficientAvailable,
    InvariantViolation,
    LedgerError,
    NotFound,
    OutcomeUnknown,
    Rejected,
    Unavailable,
)
from subbalance.money_calls import Expect, NewTransaction, NewTransfer

__all__ = [
    "Account",
    "AsyncClient",
    "Balance",
    "BalanceAt",
    "Bulk",
    "BulkResult",
    "Client",
    "Delivery",
    "Event",
    "Events",
    "Expect",
    "Foreseen",
    "ForeseenBulk",
    "Group",
    "Health",
    "HealthDetails",
    "Hold",
    "InsufficientAvailable",
    "InvariantViolation",
    "LedgerError",
    "NewTransaction",
    "NewTransfer",
    "NewWebhook",
    "NotFound",
    "OutcomeUnknown",
    "Pending",
    "Policy",
    "Problem",
    "Rejected",
    "Statement",
    "StatementRow",
    "Transaction",
    "Transfer",
    "Unavailable",
    "Verification",
    "Webhook",
]
