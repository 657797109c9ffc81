"""What a researcher asks of the offices, as protocols: in a campaign they are named actors, in a test plain objects.

Every call that changes something carries an idempotency key; a refusal is a `RefusedError`.
"""

from __future__ import annotations

from typing import Any, Protocol


class SchedulerApi(Protocol):
    """The ledger and the queue."""

    async def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out a `LeaseRequest` and wait for its `LeaseResult`; the request's key makes it idempotent."""

    async def cancel(self, key: str) -> Any:
        """End the request with this key; what it used is paid."""

    async def open_account(self, key: str, account: str, parent: str | None, caps: dict[str, Any]) -> Any:
        """Open an account under its parent."""

    async def charge(self, key: str, account: str, amounts: dict[str, int], note: str) -> dict[str, Any]:
        """Charge at once what is left of the amounts: `{charged}`."""

    async def balance(self, account: str) -> dict[str, Any]:
        """`spent`, `reserved`, `caps`, `left` and `exhausted` of an account."""


class ForumApi(Protocol):
    """Posts and the code store."""

    async def post(self, key: str, author: str, draft: dict[str, Any]) -> dict[str, Any]:
        """Publish."""

    async def read(self, reader: str, post_id: str) -> dict[str, Any]:
        """One post."""

    async def unread(self, reader: str, after_seq: int, limit: int) -> list[dict[str, Any]]:
        """Posts of others with greater numbers than `after_seq`, oldest first."""

    async def news(self, reader: str, after_seq: int, wait_s: float) -> int:
        """The number of the latest post of others, as soon as it is another than `after_seq`; after `wait_s` seconds in
        any case.
        """

    async def search(self, query: str, limit: int) -> list[dict[str, Any]]:
        """Posts by words."""

    async def claims(self) -> list[dict[str, Any]]:
        """Claims that hold now."""

    async def push_code(
        self, key: str, author: str, files: dict[str, str], parent: str | None, note: str
    ) -> dict[str, Any]:
        """Keep a snapshot; `snapshot` is its sha256."""

    async def fetch_code(self, reader: str, sha: str) -> dict[str, str]:
        """The files of a snapshot."""

    async def lineage(self, sha: str) -> list[dict[str, Any]]:
        """A snapshot and its ancestors, nearest first."""

    async def diff(self, reader: str, sha_a: str, sha_b: str) -> str:
        """A unified diff between two snapshots."""

    async def sync(self, reader: str, directory: str) -> dict[str, Any]:
        """Bring `<directory>/forum/` up to date."""


class EvaluatorApi(Protocol):
    """Scores."""

    async def submit(self, key: str, researcher: str, snapshot: str, name: str, tier: str) -> dict[str, Any]:
        """Score a snapshot on `dev` or `board` and wait for the answer."""

    async def leaderboard(self) -> list[dict[str, Any]]:
        """Rows of the board."""
