"""The gateway's side of the ledger: reserve, settle, release, and what to do when a call cost more than was reserved.

The ledger charges no more than was reserved. Reservations are upper bounds, so that more never happens as far as the
bound holds; should a vendor count more, the rest is charged as a spending of its own, to the researcher or else to the
campaign. What neither can pay stands in the gateway's journal as `unpaid`, and verification says so.
"""

from __future__ import annotations

from actors.gateway.book import Attempt, Book
from actors.scheduler.client import SchedulerClient
from cluster.errors import Reason, RefusedError
from cluster.money import Amounts
from cluster.names import CAMPAIGN, tokens_account


class Billing:
    """Moves the money of attempts; every step may be repeated."""

    def __init__(self, ledger: SchedulerClient, book: Book) -> None:
        self._ledger, self._book = ledger, book

    async def reserve(self, attempt: Attempt) -> None:
        """Set the worst case aside. Raises `RefusedError` "over_budget"; its detail is in micro-dollars."""
        note = f"call of {attempt.model}"[:400]
        account = tokens_account(attempt.researcher)
        try:
            await self._ledger.reserve(attempt.reservation, account, Amounts(usd=attempt.reserved), note, "gateway")
        except RefusedError as error:
            self._book.close(attempt)
            if error.reason is not Reason.OVER_BUDGET:
                raise
            kept = {name: error.detail[name] for name in ("account", "dimension", "left")}
            detail = {**kept, "asked": attempt.reserved}
            text = (
                f"the call may cost up to {detail['asked']} micro-dollars, "
                f"{detail['left']} are left on {detail['account']}; a shorter history or fewer max_tokens cost less"
            )
            raise RefusedError(Reason.OVER_BUDGET, text, detail, error.exceeded) from None

    async def settle(self, attempt: Attempt) -> None:
        """Charge what is due and free the rest."""
        paid = min(attempt.charge, attempt.reserved)
        await self._ledger.settle(attempt.reservation, Amounts(usd=paid), f"call of {attempt.model}"[:400])
        rest = attempt.charge - paid
        if rest and not await self._overrun(attempt, rest):
            with self._book.store.transaction():
                if self._book.attempt(attempt.reservation).state == "due":
                    self._book.journal.append("unpaid", {"reservation": attempt.reservation, "usd": rest})
                self._book.close(attempt)
        else:
            self._book.close(attempt)

    async def _overrun(self, attempt: Attempt, usd: int) -> bool:
        """Charge it to who can pay; one key for both, so that a repeated step finds who has paid."""
        for account in (tokens_account(attempt.researcher), CAMPAIGN):
            try:
                key = f"{attempt.reservation}/over"
                await self._ledger.spend(key, account, Amounts(usd=usd), "more than was reserved")
            except RefusedError:
                continue
            return True
        return False

    async def release(self, attempt: Attempt, why: str) -> None:
        """Free the reservation of an attempt that cost nothing."""
        try:
            await self._ledger.release(attempt.reservation, why[:400])
        except RefusedError as error:
            if error.reason is not Reason.UNKNOWN_RESERVATION:
                raise
        self._book.close(attempt)
