"""Processes that have work but don't do it: frozen ones, and those that only keep up their heartbeat. Pure.

The heartbeat alone is not enough, since a step may be long, and a full Redis refuses heartbeats while work goes on. So
a process counts as frozen when its heartbeat is old, it has not asked for entries either, and entries wait for it.
Entries that others take over, once its lease has expired, no longer wait for it.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from monitoring.formatting import duration, number, printable
from monitoring.stages import Instance
from monitoring.status import Status
from monitoring.streams import Consumer, Group

QUIET_S = 20.0  # a running process beats every second; longer than the lease (15 s) and any single call but a hung one
TAKE_OVER_S = 60.0  # with another process alive, which waits for the silent one's lease, then takes over thousands
WAITED_S = 10.0  # entries that arrived just now are not waiting yet


class Standstill(NamedTuple):
    """Work that is not being done."""

    severity: Literal["degraded", "broken"]
    about: str
    text: str


def standstills(status: Status) -> Iterator[Standstill]:
    """Every one; none while ClickHouse is away, which is reported already and is what they wait for."""
    if status.clickhouse.state != "known":
        return
    for component in ("trade_processor", "clickhouse_writer"):
        groups = [group for stream in status.streams for group in stream.groups if group.reader == component]
        running = [each for each in status.stage(component).instances if each.is_alive and each.state == "running"]
        lively = {each.name for each in running if each.heartbeat_age_s <= QUIET_S}
        for instance in running:
            if instance.name not in lively:
                yield from _frozen(component, instance, groups, is_alone=not lively)
        for group in groups:
            yield from _left_waiting(component, group, lively)


def _frozen(component: str, instance: Instance, groups: Sequence[Group], *, is_alone: bool) -> Iterator[Standstill]:
    own = [member for group in groups for member in group.members.value or [] if member.name == instance.name]
    if not own or any(member.idle_s <= QUIET_S for member in own):
        return  # not started yet, or working while its heartbeat does not get through
    is_stuck = is_alone or instance.heartbeat_age_s > TAKE_OVER_S
    held = sum(member.pending for member in own if is_stuck and _held_s(member) >= WAITED_S)
    unread = max((group.oldest_undelivered_age_s.value or 0.0 for group in groups), default=0.0)
    waits = [f"it holds {_entries(held)}"] if held else []
    if is_alone and unread >= WAITED_S:
        waits.append(f"the oldest unread entry has waited {duration(unread)}")
    if waits:
        who = f"{printable(instance.name)} (pid {printable(instance.pid)} on {printable(instance.host)})"
        silent = f"has been silent for {duration(instance.heartbeat_age_s)}"
        yield Standstill("broken", component, f"is frozen: {who} {silent} while {' and '.join(waits)}")


def _left_waiting(component: str, group: Group, lively: set[str]) -> Iterator[Standstill]:
    """Work that live processes have left untouched for longer than it can take."""
    members = [member for member in group.members.value or [] if member.name in lively]
    for member in members:
        if _held_s(member) > group.may_hold_s:
            text = f"{member.name} has held {_entries(member.pending)} of {printable(group.name)} for"
            yield Standstill("degraded", component, f"{text} {duration(_held_s(member))}")
    idle_s = min((member.idle_s for member in members), default=0.0)
    if idle_s > group.may_hold_s and group.oldest_undelivered_age_s.value is not None:
        text = f"has read nothing from {printable(group.name)} for {duration(idle_s)}, though entries are waiting"
        yield Standstill("degraded", component, text)


def _held_s(member: Consumer) -> float:
    return member.held_s.value or 0.0


def _entries(count: int) -> str:
    return f"{number(count)} entr{'y' if count == 1 else 'ies'}"
