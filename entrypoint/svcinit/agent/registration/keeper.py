"""Anti-entropy: compares the agent's record of one service with the wanted registration, and repairs the
differences."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from svcinit import log
from svcinit.agent.consul.answers import CRITICAL, PASSING, WARNING
from svcinit.agent.consul.backoff import AGENT_BACKOFF, pause_before
from svcinit.agent.registration.definition import (
    definition,
    differences,
    differences_of_record,
    life_of,
    maintenance_of,
    statuses,
    surplus_checks,
)
from svcinit.errors import ConfigError, SvcinitError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from svcinit.agent.consul.api import Consul
    from svcinit.agent.registration.probes import Probe
    from svcinit.agent.registration.services import Service

EARLIEST = 0.7  # of the interval: containers that started together must not ask the agent at the same time
RETURN_SPREAD = 3.0  # seconds in which the instances of a host come back to an agent that ended: all notice it at once
LOOPBACK = "127.0.0.1"
WORST = CRITICAL, WARNING, PASSING


class Keeper:
    """Keeps one service registered as `life`; `due` (monotonic seconds) is when to call `sync` next.

    `first_sync`: no presence of this run has registered the service yet, so a registration of another run under its id
    or its address and port is stale, and removed. `owns_port`: False where other services may share the port; then
    only one under the same id is stale. `known_ready`: the service is registered after SVCINIT_READY has succeeded, so
    it is passing from the start. `probes`: those of the checks that svcinit itself runs. `agent_address`: if it
    is known already.
    """

    def __init__(
        self, service: Service, consul: Consul, life: str, interval: float, *,
        advertise: str | None, first_sync: bool, known_ready: bool, owns_port: bool = True,
        probes: Sequence[Probe] = (), agent_address: str = "", now: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.service, self.probes, self._now, self._wall_clock = service, probes, now, wall_clock
        self.due = 0.0
        self.registered = False
        self.maintenance: str | None = None  # the reason; None: the service is not in maintenance mode
        self.reason = ""
        self.differs: list[str] = []  # fields that were not in sync at the last sync and are not repaired yet
        self.checks: dict[str, str] = {}  # status by id, with the checks that others added
        self.last_synced: float | None = None  # last sync, seconds since the epoch
        self.registrations = 0
        self._address = ""
        self._last_wanted: Mapping[str, Any] = {}  # the registration at the last sync
        self._consul, self._life, self._interval, self._advertise = consul, life, interval, advertise
        self._first_sync, self._owns_port = first_sync, owns_port
        self._ever_registered = not first_sync
        self._last_statuses: dict[str, str] = {}  # of our own checks, as the agent last knew them
        self._known_ready = known_ready
        self._attempt = 0
        self.is_doubtful = False  # the agent has ended since the last sync, and may have lost the registration
        self._agent_address = agent_address
        self._rotations = 0  # Consul.rotations at the last registration

    def facts(self) -> dict[str, object]:
        service = self.service
        return {
            "service": service.name,
            "address": self._address or None,
            "port": service.port,
            "tags": list(service.tags),
            "registered": self.registered,
            "registrations": self.registrations,
            "differs": self.differs,
            "maintenance": self.maintenance,
            "check": self._worst_status(),
            "checks": self.checks,
            "reason": self.reason,
        }

    def sync(self, *, ready: bool) -> None:
        """Compare, and repair; a service that is not `ready` is not registered yet.

        The same registration is not written again, because that would reset the check and wake up every watcher. A
        failure is logged once, and tried again.
        """
        try:
            self._sync(ready=ready)
        except SvcinitError as error:
            self._agent_address = ""  # another agent may answer next
            self.due = self._now() + pause_before(self._attempt, AGENT_BACKOFF, getattr(error, "retry_after", None))
            self._attempt += 1
            if str(error) != self.reason:
                self.reason = str(error)
                state = "maybe not registered" if self.registered else "not registered yet"
                log.warning("consul_unavailable", "{state}: {error}; trying again", state=state, error=error,
                            id=self.service.id)  # fmt: skip
            return
        if self.reason:
            log.info("consul_available", "Consul answers again", id=self.service.id)
        self._attempt, self.reason, self.is_doubtful = 0, "", False
        self.due = self._now() + self._interval * random.uniform(EARLIEST, 1.0)

    def report(self, probe: Probe) -> None:
        """Report the result of a probe. Nothing is reported while the agent is unavailable: `sync` comes first then."""
        if not self.registered:
            self.due = self.due if self._attempt else 0.0  # the first result may be what the registration waits for
            return
        if self._attempt or not probe.status:
            return
        try:
            known = self._consul.report(
                probe.check.id(self.service.id), self.service.name, probe.status, probe.output
            )  # fmt: skip
        except SvcinitError as error:
            log.debug("report_failed", "not reported: {error}", error=error)
            known = False
        if not known:
            self.due = 0.0
            return
        self._note_status(probe.check.id(self.service.id), probe.status)

    def _note_status(self, check_id: str, status: str) -> None:
        """Log that one of our own checks has another status than before. A new check is critical until its first
        result: the first status is not logged."""
        before = self._last_statuses.get(check_id)
        if status and before and status != before:
            name, service_id = self.service.name, self.service.id
            if status == PASSING:
                log.info("check_changed", "check {check} of {service} is {status}",
                         service=name, id=service_id, check=check_id, status=status)  # fmt: skip
            else:
                log.warning("check_changed", "check {check} of {service} is {status}",
                            service=name, id=service_id, check=check_id, status=status)  # fmt: skip
        self._last_statuses = {**self._last_statuses, check_id: status}

    def is_synced_with(self, record: Mapping[str, Any]) -> bool:
        """Is this record of the service, without its checks, the one that the last sync left?"""
        return not differences_of_record(record, self._last_wanted)

    def changed(self) -> None:
        """The agent's record has changed: sync now."""
        self.due = self.due if self._attempt else 0.0

    def agent_ended(self) -> None:
        """The agent has closed the connection: sync soon, but not at the same time as all others of the host."""
        if not self.is_doubtful and not self._attempt:
            self.due = min(self.due, self._now() + random.uniform(0.0, RETURN_SPREAD))
        self.is_doubtful = True

    def deregister(self) -> bool:
        """Deregister; False if the service is not registered by this run. Raises ConfigError, Unavailable."""
        actual = self._consul.instance(self.service.id, self.service.name)
        if actual is None or life_of(actual["Service"]) != self._life:
            return False  # another svcinit with the same id that started later: the registration is its own
        if self._has_old_token():
            self._consul.register(self._wanted())
        self._consul.deregister(self.service.id, self.service.name)
        self.registered, self.checks = False, {}
        return True

    def _sync(self, *, ready: bool) -> None:
        self._last_wanted = wanted = self._wanted()
        if self._first_sync:
            self._remove_stale(wanted, ready=ready)
            self._first_sync = False
        actual = self._consul.instance(self.service.id, self.service.name)
        self.last_synced, self.differs, self.checks = self._wall_clock(), ["registration"], {}
        if actual is not None and self._is_earlier(actual["Service"]):
            actual = None
        if actual is not None:
            self.checks = statuses(actual)
            self._check_owner(actual)
            for check in self.service.checks:
                self._note_status(check.id(self.service.id), self.checks.get(check.id(self.service.id), ""))
            self.maintenance, self._last_statuses = maintenance_of(actual), self.checks
            self.differs = found = differences(actual, wanted) + ["token"] * self._has_old_token()
            if not found:
                if not self.registered:
                    log.info("already_registered", "{service} is registered already",
                             service=self.service.name, id=self.service.id)  # fmt: skip
                self.registered = self._ever_registered = True
                return
            self._log_differences(found)
        elif not ready or not all(probe.status for probe in self.probes):
            return  # a service is registered with the result of its first probe
        elif self.registered:
            log.warning("registration_lost", "the Consul agent no longer has {service}: registering it again",
                        service=self.service.name, id=self.service.id)  # fmt: skip
        self._register(wanted, actual)

    def _log_differences(self, found: list[str]) -> None:
        if found == ["token"]:
            log.info("token_renewed", "{service} is registered with a token that was replaced: registering the new one",
                     service=self.service.name)  # fmt: skip
        elif self.registered:
            log.warning("registration_changed", "registration of {service} was changed: repaired",
                        service=self.service.name, changed=",".join(found))  # fmt: skip

    def _has_old_token(self) -> bool:
        """Was the token replaced since the registration?

        The agent keeps the token of the registration, and uses it for every update of the service in the catalog.
        """
        return self._consul.rotations != self._rotations

    def _check_owner(self, actual: Mapping[str, Any]) -> None:
        """Once we are registered, a registration of another run is that of an svcinit with the same id that runs."""
        if life_of(actual["Service"]) not in ("", self._life):
            raise ConfigError(
                f"the id {self.service.id} is registered by another svcinit that started later: "
                "give each one its own SVCINIT_ID",
                variable="SVCINIT_ID",
            )

    def _is_earlier(self, record: Mapping[str, Any]) -> bool:
        """Before we are registered, a registration of another run under our id is replaced, in one step: the other
        svcinit, if it still runs, must not find its registration missing, and repair it."""
        return not self._ever_registered and life_of(record) not in ("", self._life)

    def _remove_stale(self, wanted: Mapping[str, Any], *, ready: bool) -> None:
        """Remove the registrations that earlier runs left at our address and port, or under our id if we cannot replace
        it yet.

        Nothing answered at that port before the service was started (agent/registration/port.py).
        """
        for service_id, record in self._consul.services(self.service.name).items():
            if life_of(record) in ("", self._life):
                continue
            place = record.get("Address") or "", record.get("Port")
            is_ours = self._owns_port and wanted["Port"] and place == (wanted["Address"], wanted["Port"])
            is_same = service_id == wanted["ID"]
            if is_same or is_ours:
                log.info("stale_deregistered", "removing a registration of {service} that an earlier run left",
                         service=self.service.name, id=service_id)  # fmt: skip
            if (is_same and not ready) or (is_ours and not is_same):
                self._consul.deregister(service_id, self.service.name)

    def _register(self, wanted: dict[str, Any], actual: Mapping[str, Any] | None) -> None:
        service = self.service
        for surplus in surplus_checks(actual, wanted) if actual is not None else ():
            self._consul.deregister_check(surplus, service.name)
        if self.maintenance is None:
            for check in wanted.get("Checks", ()):
                status = self._status_of(check["CheckID"])
                check |= {"Status": status} if status else {}
        if actual is not None and service.tag_override:
            wanted = {**wanted, "Tags": actual["Service"].get("Tags") or []}
        self._consul.register(wanted, replaces_checks=not self._ever_registered)
        self._ever_registered = True
        self._rotations = self._consul.rotations
        if actual is None and self.maintenance is not None:
            self._consul.maintenance(service.id, service.name, on=True, reason=self.maintenance)
        self.registered, self.differs = True, []
        self.registrations += 1
        log.info("registered", "registered {service}", service=service.name, id=service.id, port=service.port)
        for probe in self.probes:
            self.report(probe)

    def _status_of(self, wanted_id: str) -> str:
        """The status to register a check with; empty: Consul's own default, which is critical."""
        for probe in self.probes:
            if probe.check.id(self.service.id) == wanted_id:
                return probe.status
        return self._last_statuses.get(wanted_id) or (PASSING if self._known_ready else "")

    def _worst_status(self) -> str | None:
        """Of the checks that svcinit itself runs; None: there are none, or none has a result."""
        found = [probe.status for probe in self.probes]
        return next((status for status in WORST if status in found), "" if found else None)

    def _wanted(self) -> dict[str, Any]:
        address = None
        if self._advertise:
            from svcinit.agent.registration.advertise import advertised

            address = advertised(self._advertise)
        if not address and not self._agent_address:
            self._agent_address = agent_address(self._consul)
        self._address = address or self._agent_address
        return definition(self.service, address, self._agent_address, self._life)


def agent_address(consul: Consul) -> str:
    """The address that the agent advertises, and at which a service without SVCINIT_ADVERTISE is registered."""
    try:
        return consul.agent()["address"]
    except ConfigError:  # the token may not read the agent, which is on this host all the same
        return LOOPBACK
