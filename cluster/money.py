"""Money, GPU time, wall time and evaluation answers as integers.

Invariant: no float ever enters a ledger. Dollars are micro-dollars (1_000_000 = $1), GPU time is GPU-milliseconds
(one whole GPU for one millisecond), wall time is milliseconds, answers are counts. Prices round up, so that a sum of
settled amounts never understates the bill.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any

MICRO = 1_000_000
MS_PER_HOUR = 3_600_000
DIMENSIONS = ("usd", "gpu_ms", "wall_ms", "answers")


@dataclass(frozen=True, slots=True)
class Amounts:
    """What is reserved, spent or released, in every dimension of the ledger. Raises `TypeError` for what is no integer;
    a difference may be below zero, and the ledger refuses it.
    """

    usd: int = 0
    gpu_ms: int = 0
    wall_ms: int = 0
    answers: int = 0

    def __post_init__(self) -> None:
        for d in DIMENSIONS:
            _check_whole(d, getattr(self, d))

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(*(getattr(self, d) + getattr(other, d) for d in DIMENSIONS))

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(*(getattr(self, d) - getattr(other, d) for d in DIMENSIONS))

    def capped_by(self, limit: Amounts) -> Amounts:
        """The smaller of the two in each dimension."""
        return Amounts(*(min(getattr(self, d), getattr(limit, d)) for d in DIMENSIONS))

    def negative(self) -> bool:
        """Whether any dimension is below zero."""
        return any(getattr(self, d) < 0 for d in DIMENSIONS)

    def to_dict(self) -> dict[str, int]:
        """A plain mapping for the wire and the journal."""
        return {d: getattr(self, d) for d in DIMENSIONS}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Amounts:
        """The inverse of `to_dict`; missing dimensions are zero."""
        return cls(**{f.name: data.get(f.name, 0) for f in fields(cls)})


@dataclass(frozen=True, slots=True)
class Caps:
    """Upper limits of an account; `None` leaves a dimension uncapped. Raises `TypeError` for what is no integer, and
    `ValueError` for less than nothing.
    """

    usd: int | None = None
    gpu_ms: int | None = None
    wall_ms: int | None = None
    answers: int | None = None

    def __post_init__(self) -> None:
        for d in DIMENSIONS:
            cap = getattr(self, d)
            if cap is not None:
                _check_whole(d, cap)
                if cap < 0:
                    raise ValueError(f"{d}: {cap} is below zero")

    def exceeded_by(self, amounts: Amounts) -> str | None:
        """The first dimension in which `amounts` is above the cap, or `None`."""
        for d in DIMENSIONS:
            cap = getattr(self, d)
            if cap is not None and getattr(amounts, d) > cap:
                return d
        return None

    def to_dict(self) -> dict[str, int | None]:
        """A plain mapping for the wire and the journal."""
        return {d: getattr(self, d) for d in DIMENSIONS}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Caps:
        """The inverse of `to_dict`."""
        return cls(**{d: data.get(d) for d in DIMENSIONS})


@dataclass(frozen=True, slots=True)
class Balance:
    """An account as it stands; figures include those of its descendants.

    `left` is what could be reserved now, the caps of the ancestors counted; `None` where nothing caps it. `exhausted`
    are the dimensions of which a cap is spent for good, its own or an ancestor's: what is merely reserved may come
    back, so that nothing `left` does not mean `exhausted`.
    """

    account: str
    parent: str | None
    caps: Caps
    spent: Amounts
    reserved: Amounts
    left: Caps
    exhausted: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, by dimension."""
        return {
            "account": self.account,
            "parent": self.parent,
            "caps": self.caps.to_dict(),
            "spent": self.spent.to_dict(),
            "reserved": self.reserved.to_dict(),
            "left": self.left.to_dict(),
            "exhausted": list(self.exhausted),
        }


def _check_whole(dimension: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{dimension}: {value!r} is no integer; dollars are micro-dollars, times milliseconds")


def usd_from_decimal(value: str | float | Decimal) -> int:
    """Micro-dollars of a decimal dollar amount, rounded up. Raises `ValueError` on text that is no number."""
    try:
        amount = Decimal(str(value))
    except InvalidOperation as error:
        raise ValueError(f"{value!r} is not a dollar amount") from error
    if not amount.is_finite():
        raise ValueError(f"{value!r} is not a finite dollar amount")
    return int((amount * MICRO).to_integral_value(rounding=ROUND_CEILING))


def format_usd(micro: int) -> str:
    """Micro-dollars as `$1.23` (cents, four decimals below one dollar)."""
    sign = "-" if micro < 0 else ""
    dollars = Decimal(abs(micro)) / MICRO
    return f"{sign}${dollars:.2f}" if dollars >= 1 else f"{sign}${dollars:.4f}"


def gpu_cost(gpu_ms: int, usd_per_gpu_hour: int) -> int:
    """Micro-dollars of `gpu_ms` GPU-milliseconds at `usd_per_gpu_hour` micro-dollars per GPU-hour, rounded up."""
    return -(-gpu_ms * usd_per_gpu_hour // MS_PER_HOUR)


def gpu_ms(gpus: float, milliseconds: int) -> int:
    """GPU-milliseconds of a lease of `gpus` for `milliseconds`, rounded up to a whole one."""
    thousandths = round(gpus * 1000)
    return -(-thousandths * milliseconds // 1000)
