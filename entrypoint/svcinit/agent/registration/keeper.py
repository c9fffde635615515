"""Anti-entropy: one service as its agent has it, compared with what it should be, and set right where it differs."""

from __future__ import annotations

import random
import time

from svcinit import log
from svcinit.agent.consul.backoff import pause_before
from svcinit.agent.registration.advertise import advertised
from svcinit.agent.registration.definition import check_id, definition, differences, life_of, maintenance_of, statuses
from svcinit.errors import ConfigError, SvcinitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from svcinit.agent.consul.api import Consul
    from svcinit.agent.registration.probes import Probe
    from svcinit.agent.registration.services import Service

BACKOFF = 0.25, 30.0  # seconds between two tries while the agent is away
EARLIEST = 0.7  # of the interval: those that started together shall not look together
LOOPBACK = "127.0.0.1"


class Keeper:
    """Keeps one service registered as `life`; `due` (monotonic seconds) is when to call `look` next.

    `first`: no presence before this one can have registered it, so what is there under its id or address is a ghost.
    `vouched`: it is not registered before it was found ready, so it need not wait for the agent's first probe.
    """

    def __init__(
        self, service: Service, consul: Consul, life: str, interval: float, *,
        advertise: str | None, first: bool, vouched: bool, probe: Probe | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.service, self.probe, self._now = service, probe, now
        self.due = 0.0
        self.registered = False
        self.maintenance: str | None = None  # the reason; None: it is not in maintenance mode
        self.trouble = ""
        self.differs: list[str] = []  # what was not as it should be at the last look, and could not be set right yet
        self.checks: dict[str, str] = {}  # status by id, those of others included
        self.looked: float | None = None  # seconds since the epoch
        self.registrations = 0
        self._address = ""
        self._consul, self._life, self._interval, self._advertise = consul, life, interval, advertise
        self._haunted = first
        self._status = "passing" if vouched else ""  # of the check, as last known
        self._attempt = 0
        self._agent_address = ""
        self._rotations = 0  # of the token, by the time that the agent was last given it with a registration

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
            "check": self.probe.status if self.probe is not None else None,
            "checks": self.checks,
            "trouble": self.trouble,
        }

    def look(self, *, ready: bool) -> None:
        """One look, and what it takes to set things right; a service that is not `ready` is not registered yet.

        Compares before it registers: to register the same again would reset the check and wake every watcher. What
        fails is told once, and tried again.
        """
        try:
            self._look(ready=ready)
        except SvcinitError as error:
            self._agent_address = ""  # whoever answers next may be at another one
            self.due = self._now() + pause_before(self._attempt, BACKOFF, getattr(error, "retry_after", None))
            self._attempt += 1
            if str(error) != self.trouble:
                self.trouble = str(error)
                state = "maybe not registered" if self.registered else "not registered yet"
                log.warning("consul_failed", "{state}: {error}; trying again", state=state, error=error, **error.fields,
                            id=self.service.id)  # fmt: skip
            return
        if self.trouble:
            log.info("consul_answers", "Consul answers again", id=self.service.id)
        self._attempt, self.trouble = 0, ""
        self.due = self._now() + self._interval * random.uniform(EARLIEST, 1.0)

    def report(self) -> None:
        """Tell the agent what the probe found; it is silent while the agent is away, and then looks first."""
        if not self.registered or self._attempt or self.probe is None or not self.probe.status:
            return
        service, probe = self.service, self.probe
        try:
            known = self._consul.report(check_id(service.id), service.name, probe.status, probe.output)
        except SvcinitError as error:
            log.debug("not_reported", "not reported: {error}", error=error)
            known = False
        if not known:
            self.due = 0.0

    def leave(self) -> bool:
        """Deregister; False when there was nothing of ours. Raises ConfigError, Unavailable."""
        actual = self._consul.instance(self.service.id, self.service.name)
        if actual is None or life_of(actual["Service"]) != self._life:
            return False  # a namesake's that started later is its own
        if self._has_old_token():
            self._consul.register(self._wanted())
        self._consul.deregister(self.service.id, self.service.name)
        self.registered, self.checks = False, {}
        return True

    def _look(self, *, ready: bool) -> None:
        wanted = self._wanted()
        if self._haunted:
            self._exorcise(wanted)
            self._haunted = False
        actual = self._consul.instance(self.service.id, self.service.name)
        self.looked, self.differs, self.checks = time.time(), ["registration"], {}
        if actual is not None:
            self.checks = statuses(actual)
            self._check_owner(actual)
            self.maintenance, self._status = maintenance_of(actual), self.checks.get(check_id(self.service.id), "")
            self.differs = found = differences(actual, wanted) + ["token"] * self._has_old_token()
            if not found:
                if not self.registered:
                    log.info("registered_already", "{service} is registered already",
                             service=self.service.name, id=self.service.id)  # fmt: skip
                self.registered = True
                return
            if found == ["token"]:
                log.info("token_renewed", "{service} is registered with a token that was replaced: giving the new one",
                         service=self.service.name)  # fmt: skip
            elif self.registered:
                log.warning("registration_changed", "registration of {service} was changed: set right",
                            service=self.service.name, changed=",".join(found))  # fmt: skip
        elif not ready:
            return
        elif self.registered:
            log.warning("registration_lost", "the Consul agent no longer knows {service}: registering it again",
                        service=self.service.name, id=self.service.id)  # fmt: skip
        self._register(wanted, actual)

    def _has_old_token(self) -> bool:
        """Was the token replaced since the registration?

        The agent keeps the one that came with it, and tells the catalog all news of the service by that, its end too.
        """
        return self._consul.rotations != self._rotations

    def _check_owner(self, actual: Mapping[str, Any]) -> None:
        """Ghosts are gone by now: a registration of another life is that of a namesake that runs."""
        if life_of(actual["Service"]) not in ("", self._life):
            raise ConfigError(
                f"the id {self.service.id} is registered by another svcinit that started later: "
                "give each an SVCINIT_ID of its own",
                variable="SVCINIT_ID",
            )

    def _exorcise(self, wanted: Mapping[str, Any]) -> None:
        """Remove what earlier lives left: their registrations under our id, or at our address and port."""
        for service_id, record in self._consul.services(self.service.name).items():
            life = life_of(record)
            if not life or life == self._life:
                continue
            place = record.get("Address") or "", record.get("Port")
            if service_id == wanted["ID"] or (wanted["Port"] and place == (wanted["Address"], wanted["Port"])):
                log.info("leftover_deregistered", "removing a registration of {service} that an earlier life left",
                         service=self.service.name, id=service_id)  # fmt: skip
                self._consul.deregister(service_id, self.service.name)

    def _register(self, wanted: dict[str, Any], actual: Mapping[str, Any] | None) -> None:
        check, service = wanted.get("Check"), self.service
        if actual is not None and check is None and "check" in differences(actual, wanted):
            self._consul.deregister_check(check_id(service.id), service.name)
        if check is not None and self.maintenance is None:
            status = self.probe.status if self.probe is not None else self._status
            check |= {"Status": status} if status else {}
        if actual is not None and service.tag_override:
            wanted = {**wanted, "Tags": actual["Service"].get("Tags") or []}
        self._consul.register(wanted)
        self._rotations = self._consul.rotations
        if actual is None and self.maintenance is not None:
            self._consul.maintenance(service.id, service.name, on=True, reason=self.maintenance)
        self.registered, self.differs = True, []
        self.registrations += 1
        log.info("registered", "registered {service}", service=service.name, id=service.id, port=service.port)
        self.report()

    def _wanted(self) -> dict[str, Any]:
        address = advertised(self._advertise)
        if not address and not self._agent_address:
            self._agent_address = agent_address(self._consul)
        self._address = address or self._agent_address
        return definition(self.service, address, self._agent_address, self._life)


def agent_address(consul: Consul) -> str:
    """Where the agent reaches this host: what it advertises itself, since the service is registered at that."""
    try:
        return consul.agent()["address"]
    except ConfigError:  # the token may not read the agent: the agent is on this host all the same
        return LOOPBACK
