"""Which slots a scheduler may use now."""

from __future__ import annotations

import asyncio

from actors.scheduler.client import SchedulerClient
from gpu_pool.client import SlotClient

WARM_S = 600.0
"""A slot answers when its sandboxes are graded and warm; on a loaded machine that takes a while."""


async def enrol(scheduler: SchedulerClient, slots: list[str]) -> None:
    """Register the slots with these actor names and retire those of an earlier start."""
    infos = await asyncio.gather(*(SlotClient.of(slot, WARM_S).info() for slot in slots))
    for slot, info in zip(slots, infos, strict=True):
        await scheduler.register_slot(info, slot)
    names = {info.name for info in infos}
    for known in (await scheduler.status())["slots"]:
        if known["name"] not in names:
            await scheduler.retire_slot(known["name"], True)
