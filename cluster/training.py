"""How teachers, ceilings and students are fine-tuned: one class from the campaign's file to the trainer. No torch."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

EPOCHS, BATCH, LR = 5, 32, 1e-4
BETAS = (0.9, 0.95)
PUBLISHED_TRAINABLE = "lora:32"
"""The published experiment's settings (automated-w2s-research, 2026), which are the defaults wherever one trains."""

Beta = Annotated[float, Field(ge=0, lt=1)]


class Training(BaseModel):
    """A task's fixed protocol. The defaults are those of the published experiment."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    epochs: Annotated[int, Field(ge=1, le=10**12)] = EPOCHS
    lr: Annotated[float, Field(gt=0, le=1e9)] = Field(LR, description="highest learning rate of AdamW")
    batch: Annotated[int, Field(ge=1, le=10**12)] = Field(BATCH, description="items of a step")
    trainable: str = Field(PUBLISHED_TRAINABLE, description="`full`, `head`, `top:k` (upper layers) or `lora:r` (rank)")
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = Field(BETAS, description="of AdamW")
    members: Annotated[int, Field(ge=1, le=16)] = Field(1, description="teachers that are averaged")

    @field_validator("trainable")
    @classmethod
    def _trainable(cls, value: str) -> str:
        if not re.fullmatch(r"full|head|(top|lora):[1-9]\d{0,3}", value):
            raise ValueError("full, head, top:k or lora:r")
        return value
