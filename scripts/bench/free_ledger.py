"""A ledger without caps, for measurements in which money is not the question."""

from __future__ import annotations

from cluster.money import Amounts, Balance, Caps


class FreeLedger:
    """Opens any account and charges any amount."""

    def open_account(self, key: str, account: str, parent: str | None, caps: Caps) -> Balance:
        """Any account."""
        return self.balance(account)

    def spend(self, key: str, account: str, amounts: Amounts, note: str = "") -> Amounts:
        """Any amount."""
        return amounts

    def balance(self, account: str) -> Balance:
        """No caps."""
        return Balance(account, None, Caps(), Amounts(), Amounts(), Caps())
