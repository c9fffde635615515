"""A service whose start or reload fails: what must be true whatever the failure was."""

from __future__ import annotations

import json
import pathlib
import signal
from collections.abc import Mapping

from testing.consul import ConsulAgent
from testing.ctl import svcinitctl
from testing.process import Running
from testing.waiting import eventually
from tests.e2e.conftest import Service

AT_ONCE = 5.0  # seconds, well below any timeout of svcinit's that could have passed instead
WRONG = "svcinit: error: exit 78: the configuration is wrong; the service was not started\n"


def is_passing(service: Service) -> None:
    eventually(lambda: service.consul.passing("web"), "the service is passing in Consul")


def comes_back(agent: ConsulAgent, *names: str) -> None:
    """See the services registered again, and passing, after another program removed their registrations.

    The agent answers for itself. The catalog has the removed instances until the agent has informed its server.
    """
    known = {id for id, service in agent.get("/v1/agent/services").items() if service["Service"] in names}
    assert known
    for service_id in known:
        agent.deregister(service_id)
    eventually(lambda: known <= set(agent.get("/v1/agent/services")), f"{known} are registered again")
    for name in names:
        eventually(lambda name=name: agent.passing(name), f"{name} is passing in Consul")  # type: ignore[misc]


def files_in(folder: pathlib.Path) -> list[str]:
    """All there is below `folder`, dot-files included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def source_of(service: Service, target: pathlib.Path) -> pathlib.Path:
    """The template that renders to `target`."""
    return service.templates / (str(target).lstrip("/") + ".j2")


def refuses_to_start(service: Service, *messages: str, code: int = 78) -> Running:
    """Start, and see it end with `code` and `messages`, no file written and nothing started or registered."""
    svcinit = service.start()
    assert svcinit.wait() == code, svcinit.err
    for message in messages:
        assert message in svcinit.err, svcinit.err
    assert svcinit.err.endswith(WRONG if code == 78 else "\n")
    assert files_in(service.folder).count("app.log") == 0, "the service was started"
    assert not service.out.exists(), files_in(service.out)
    return svcinit


def has_state(svcinit: Running, **expected: object) -> None:
    """Wait until svcinit's state file says so."""

    def state() -> dict[str, object]:
        found: dict[str, object] = json.loads((svcinit.folder / "run" / "init.json").read_text())
        return {name: found[name] for name in expected}

    try:
        eventually(lambda: state() == expected, f"the state is {expected}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {state()}\n{svcinit.err}") from None


def ctl(svcinit: Running, *command: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """svcinitctl as in the container of `svcinit`: exit status and all that it printed."""
    done = svcinitctl(*command, env={"SVCINIT_RUN": str(svcinit.folder / "run"), **(env or {})})
    return done.returncode, done.stdout + done.stderr


def refuses_to_reload(svcinit: Running, service: Service, *messages: str) -> None:
    """HUP, and see the reload aborted: said, kept in the state, and the service left alone."""
    svcinit.signal(signal.SIGHUP)
    svcinit.says("error: reload 1: aborted: ")
    for message in messages:
        assert message in svcinit.err, svcinit.err
    has_state(svcinit, state="running", reloads=1)
    code, said = ctl(svcinit, "status")
    assert (code, "degraded  aborted: " in said) == (1, True), said
    assert ctl(svcinit, "health") == (0, "")
    is_passing(service)
    assert svcinit.stop() == 0
    assert service.notes == ["up", "SIGTERM"], "the service was told of a reload that was aborted"
