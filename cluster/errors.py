"""The root of the project's own errors.

Every error that a caller may act on derives from `AarError`, so that a driver can show one clear line for
what the project foresaw and a traceback only for what it did not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class AarError(Exception):
    """An error that the project foresaw; its text says what is wrong and what to do."""


class Reason(StrEnum):
    """Every reason for which a request is refused: short, stable codes that a brain can act on."""

    # the ledger and the queue
    OVER_BUDGET = "over_budget"
    """The worst case of what was asked does not fit an account."""
    UNKNOWN_ACCOUNT = "unknown_account"
    """The account was never opened."""
    ACCOUNT_DIFFERS = "account_differs"
    """The account is open with another parent or other caps."""
    UNKNOWN_RESERVATION = "unknown_reservation"
    """No reservation has this key."""
    NOT_HELD = "not_held"
    """The reservation has ended before, in another way."""
    KEY_REUSED = "key_reused"
    """The idempotency key stands for something else."""
    MALFORMED = "malformed"
    """A field is missing, unknown, or has a value that it cannot have."""
    LARGER_THAN_ANY_SLOT = "larger_than_any_slot"
    """No slot could ever hold the lease."""
    QUEUE_FULL = "queue_full"
    """As many requests wait as may."""
    UNKNOWN_REQUEST = "unknown_request"
    """No request has this id or key."""

    # models
    UNKNOWN_MODEL = "unknown_model"
    """No price is known for the model, or the endpoint does not know it."""
    BAD_KEY = "bad_key"
    """The endpoint refuses the key."""
    NO_CREDIT = "no_credit"
    """The organisation's prepaid credit is used up."""
    CONTEXT_TOO_LONG = "context_too_long"
    """The input does not fit the model's window."""
    BAD_REQUEST = "bad_request"
    """The request is refused as it is; asking again does not help."""
    UNAVAILABLE = "unavailable"
    """Every attempt failed; the service may answer later."""
    LOST = "lost"
    """As many answers under this key as may be were paid for and lost; another key is tried."""
    NOT_RECORDED = "not_recorded"
    """The campaign that is replayed never got an answer to this call."""

    # the evaluator
    BAD_TIER = "bad_tier"
    """The tier takes no submissions."""
    BAD_METHOD = "bad_method"
    """The snapshot is no method."""
    NO_TRAIN = "no_train"
    """The method defines no train(run)."""
    SYNTAX_ERROR = "syntax_error"
    """The method is not Python."""
    TIER_EXHAUSTED = "tier_exhausted"
    """The tier has given as many answers as it may."""
    UNKNOWN_DOMAIN = "unknown_domain"
    """The campaign has no such domain."""
    UNKNOWN_RECORD = "unknown_record"
    """There is no such record."""
    REVEALED = "revealed"
    """The secret is published, so nothing is scored any more."""
    NO_CLUSTER = "no_cluster"
    """There is nothing to run leases on."""
    CLOSED = "closed"
    """The campaign is past the phase in which this could be done."""

    # the forum and the code store
    FORUM_DISABLED = "forum_disabled"
    """The campaign has no forum."""
    BAD_AUTHOR = "bad_author"
    """The author is no researcher of the campaign."""
    BAD_DRAFT = "bad_draft"
    """The post is not well-formed."""
    NOT_YOURS = "not_yours"
    """The record that the post claims is another's."""
    CLAIMED = "claimed"
    """Another researcher holds the idea."""
    QUARANTINED = "quarantined"
    """The post is held back."""
    UNKNOWN_POST = "unknown_post"
    """There is no such post."""
    POST_LIMIT = "post_limit"
    """The author has posted as often as may be for now."""
    PUSH_LIMIT = "push_limit"
    """The author has pushed as much as may be."""
    TOO_FAST = "too_fast"
    """The author has to wait before the next one."""
    TOO_LONG = "too_long"
    """The text is longer than is taken."""
    BAD_SNAPSHOT = "bad_snapshot"
    """The snapshot is not well-formed."""
    UNKNOWN_SNAPSHOT = "unknown_snapshot"
    """There is no such snapshot."""

    # tools and workspaces
    BAD_ARGUMENTS = "bad_arguments"
    """The tool does not take these arguments."""
    BAD_PATH = "bad_path"
    """The path leaves the workspace, or is not one."""
    BAD_RANGE = "bad_range"
    """The lines are not in the file."""
    BAD_FILE = "bad_file"
    """The file is a link, a device, or cannot be read."""
    NOT_FOUND = "not_found"
    """There is no such file."""
    NOT_TEXT = "not_text"
    """The file is not UTF-8 text."""
    NO_MATCH = "no_match"
    """The text to replace is not in the file."""
    AMBIGUOUS = "ambiguous"
    """The text to replace is in the file several times."""
    READ_ONLY = "read_only"
    """The file belongs to the system."""
    TOO_LARGE = "too_large"
    """It has more bytes than are taken."""
    IMAGE = "image"
    """The file is an image."""
    WORKSPACE = "workspace"
    """The workspace cannot be written."""
    WORKSPACE_FULL = "workspace_full"
    """The workspace holds as much as it may."""
    NO_TASK = "no_task"
    """The task's public files are missing or broken."""
    NO_SANDBOX = "no_sandbox"
    """No sandbox can be made here."""
    CAMPAIGN_RUNNING = "campaign_running"
    """The campaign still runs."""


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """The limit that a refused request ran into.

    `kind` is what is limited: a dimension of the ledger, or "answers", "posts", "bytes", "requests", "seconds".
    `subject` is whose limit it is: an account, a tier, an author, a file. `value` is what it would have come to, in the
    unit of `limit`. `source` is the service that holds the limit.
    """

    kind: str
    subject: str
    limit: float
    value: float
    source: str


class RefusedError(AarError):
    """A request that was refused for a reason the requester can act on.

    `detail` are the numbers behind it as plain data; `exceeded` says which limit was hit, where it was one.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        detail: dict[str, Any] | None = None,
        exceeded: LimitExceeded | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.detail = detail or {}
        self.exceeded = exceeded

    def __reduce__(self) -> tuple[type[RefusedError], tuple[Reason, str, dict[str, Any], LimitExceeded | None]]:
        return (type(self), (self.reason, self.message, self.detail, self.exceeded))
