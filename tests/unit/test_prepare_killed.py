"""A prepare that is killed at each of its system calls, and whoever comes next.

All files are old and nothing is told, or all are new and exactly what changed is told.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from killing import armed, killed_at_call
from places import mode_of, put
from svcinit import log
from svcinit.agent.files import commit
from svcinit.agent.prepare import rollback, transaction
from svcinit.agent.prepare.source import Answer, InputId
from svcinit.agent.prepare.source_file import FileSource
from svcinit.agent.watch import follower
from svcinit.errors import EX_OK, ConfigError, SvcinitError, Unavailable
from svcinit.handover import Progress
from svcinit.processes import init
from svcinit.processes.crew import Crew
from svcinit.settings import environment
from svcinit.settings.environment import Settings

OLD = {"a": b"old a", "b": b"old b", "volume/c": b"old c"}
WAYS = {"a": "restart", "b": "HUP", "volume/c": "HUP"}
SLICES = 2


class Container:
    """The memfds that one svcinit shares with its children, and three templates in two directories."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.etc = folder / "etc"
        self.source = folder / "source.yaml"
        self.templates = folder / "templates"
        for name, way in WAYS.items():
            text = f"{{# svcinit: mode=0640 reload={way} #}}\n{{{{ key('v') }}}} {name}"
            put(Path(f"{self.templates}/{self.etc}/{name}.j2"), text.encode())
        self.value("new")
        self.settings = environment.read({
            "SVCINIT_TEMPLATES": str(self.templates), "SVCINIT_SOURCE": f"file:{self.source}",
            "SVCINIT_RUN": str(folder / "run"), "SVCINIT_CACHE": str(folder / "cache.json"),
            "SVCINIT_KV_PREFIX": "config/web", "SVCINIT_RELOAD": "signal:HUP", **env,
        })  # fmt: skip
        self.live()

    def live(self) -> None:
        """A new life: all memory is gone."""
        if hasattr(self, "crew"):
            self.end()
        self.crew = crew = Crew(self.settings, ("main",))
        slots = crew.slots
        for slot in (slots.lock, slots.inputs, slots.intent, slots.news, slots.news_memory, slots.news_intent):
            slot.open()
        crew.signal = lambda *_, **__: None  # type: ignore[method-assign]

    def end(self) -> None:
        for slot in self.crew.slots.all():
            slot.close()

    def value(self, value: str) -> None:
        self.source.write_text(f"kv: {{config/web: {{v: {value}}}}}")

    def lay_old(self) -> None:
        for name, content in OLD.items():
            put(self.etc / name, content, 0o600)

    def preparation(self) -> Callable[[], int]:
        """As Crew.start_prepare."""
        crew = self.crew
        crew.slots.verdict.renew()
        crew.slots.fresh.renew()
        crew._verdict_taken = False

        def body() -> int:
            try:
                return transaction.main(
                    self.settings, ("main",), crew.slots, seconds=5, fallback="", life=crew._life
                )  # fmt: skip
            except SvcinitError as error:
                return error.code

        return body

    def work(self) -> Callable[[], int]:
        """As a worker of presence."""
        crew = self.crew
        made = follower.Follower.__new__(follower.Follower)
        made.settings, made._command, made._life = self.settings, ("main",), crew._life
        made._slots = crew.slots
        made._file, made._prefixes, made._used, made._of_vault = [None], {}, {}, {}  # type: ignore[list-item]
        made._counts, made._late, made._turn = {}, 0.0, None
        return lambda: made._prepared(made._change(()), lambda: None) or EX_OK  # type: ignore[func-returns-value]

    def killed(self, count: int, run: Callable[[], int]) -> bool:
        """Was `run` killed at that system call of its commit or rollback, or after it? False where there are fewer."""

        def body() -> int:
            for name in ("commit", "rollback"):
                setattr(commit, name, partial(self._armed, getattr(commit, name)))
            return run()

        return killed_at_call(count, body) is None

    @staticmethod
    def _armed(act: Callable[..., object], *arguments: object, **options: object) -> object:
        armed()
        return act(*arguments, **options)

    def roll_back(self, *, committed: bool = False) -> int:
        return rollback.roll_back(self.settings, self.crew._life, self.crew.slots, committed=committed)

    def state(self) -> str:
        """old, new or mixed; AssertionError for what is neither."""
        found = set()
        for name, old in OLD.items():
            now = (self.etc / name).read_bytes(), mode_of(self.etc / name)
            assert now in ((old, 0o600), (b"new " + name.encode(), 0o640)), now
            found.add("old" if now[0] == old else "new")
        return found.pop() if len(found) == 1 else "mixed"

    def is_clean(self) -> bool:
        return not list(self.etc.rglob(".svcinit-*")) and not self.crew.begun()

    def all_changed(self) -> bool:
        changed = sorted(self.crew.changed) == sorted(str(self.etc / name) for name in OLD)
        return changed and sorted(self.crew.reloads) == ["HUP", "restart"]


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch) -> Iterator[Container]:
    """In memory: a hundred times ten fsync(2) of a disk take seconds."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(init, "_become_subreaper", lambda: None)  # or orphans of later tests would be its zombies
        monkeypatch.setattr(log, "info", lambda *_, **__: None)
        made = Container(Path(folder))
        yield made
        made.end()
        monkeypatch.undo()


def calls(container: Container, start: Callable[[], Callable[[], int]], part: int) -> Iterator[None]:
    """Each system call at which `start()` was killed, in a new life; a slice of them, so that no test is long."""
    container.preparation()()  # imports
    states = set()
    count = 1 + part
    while True:
        container.live()
        container.lay_old()
        if not container.killed(count, start()):
            break
        states.add(container.state())
        yield
        count += SLICES
    assert states == {"old", "mixed", "new"}
    assert count > 30


parts = pytest.mark.parametrize("part", range(SLICES))


@parts
def test_init_knows_at_each_point_whether_there_is_something_to_put_back(container: Container, part: int) -> None:
    finished = False
    for _ in calls(container, container.preparation, part):
        if container.crew.finished():
            finished = True
            assert container.crew.take_verdict()
            assert container.state() == "new"
            assert container.all_changed()
            container.roll_back(committed=True)  # its hook fails
        elif container.crew.begun():
            assert not finished
            assert container.roll_back() == EX_OK
        assert container.state() == "old"
        assert not container.crew.begun()
        container.preparation()()
        assert container.is_clean()
    assert finished


@parts
def test_the_retry_tells_the_command_of_all_that_changed_and_can_be_undone(container: Container, part: int) -> None:
    for _ in calls(container, container.preparation, part):
        if not container.crew.finished():
            assert container.preparation()() == EX_OK
        assert container.crew.take_verdict()
        assert container.state() == "new"
        assert container.all_changed()
        container.roll_back(committed=True)
        assert container.state() == "old"
        assert container.crew.begun() is False
        container.preparation()()
        assert container.is_clean()


@parts
def test_a_retry_without_a_source_leaves_the_old_files_and_never_some_of_each(container: Container, part: int) -> None:
    for _ in calls(container, container.preparation, part):
        if container.crew.finished():
            continue
        container.source.unlink()
        assert container.preparation()() != EX_OK
        container.value("new")
        assert container.state() == "old"
        assert container.is_clean()


@parts
def test_the_next_life_never_sees_some_of_each_even_if_its_start_fails(container: Container, part: int) -> None:
    for _ in calls(container, container.preparation, part):
        before = container.state()
        container.live()
        container.source.unlink()
        assert container.preparation()() != EX_OK
        container.value("new")
        assert container.state() == ("old" if before == "mixed" else before) or before == "new"
        assert container.state() != "mixed"
        assert container.is_clean()


@parts
def test_a_worker_that_is_killed_leaves_all_to_the_prepare_of_init(container: Container, part: int) -> None:
    for _ in calls(container, container.work, part):
        taken = container.crew.has_news() and container.crew.take_news()
        assert not (taken and container.crew.slots.news_intent.is_filled), "what is told is put back later"
        if not taken:
            if container.crew.begun() or container.state() != "old":
                with pytest.raises(Unavailable, match="was killed"):
                    container.work()()
            assert container.preparation()() == EX_OK
            assert container.crew.take_verdict()
        assert container.state() == "new"
        assert container.all_changed()
        container.roll_back(committed=True)
        assert container.state() == "old"
        container.preparation()()
        assert container.is_clean()
        assert not container.crew.slots.news_intent.is_filled


@parts
def test_a_rollback_that_is_killed_is_finished_by_the_next_prepare(container: Container, part: int) -> None:
    """And what it had not put back yet is told as changed again."""
    container.preparation()()
    count = 1 + part
    while True:
        container.live()
        container.lay_old()
        container.preparation()()
        assert container.crew.take_verdict()
        container.crew._can_roll_back = True
        if not container.killed(count, partial(container.roll_back, committed=True)):
            break
        if container.crew.begun():
            container.crew.changed, container.crew.reloads = [], []
            assert container.preparation()() == EX_OK
            assert container.crew.take_verdict()
            assert container.all_changed()
            assert container.is_clean()
        count += SLICES
    assert container.state() == "old"
    assert count > 30


def test_what_cannot_be_put_back_is_a_fault_and_is_tried_again(container: Container) -> None:
    container.preparation()()
    container.lay_old()
    count = 30
    while container.state() != "mixed":  # between two renames
        container.live()
        container.lay_old()
        assert container.killed(count, container.preparation())
        count += 1
    (container.etc / "a").rename(container.etc / "kept")
    (container.etc / "a").mkdir()
    with pytest.raises(ConfigError, match="a could not be rolled back: it is a directory"):
        container.roll_back()
    assert container.crew.begun()
    (container.etc / "a").rmdir()
    assert container.roll_back() == EX_OK
    assert container.state() == "old"
    assert not container.crew.begun()


class Asked(FileSource):
    """Notes whether a prepare that is killed while it waits for this source counts as one that waited."""

    def __init__(self, settings: Settings, crew: Crew) -> None:
        super().__init__(settings)
        self.crew, self.waited = crew, dict[str, bool]()

    def read(self, wanted: InputId) -> Answer:
        self.waited[wanted.name] = self.crew.fetching()
        return super().read(wanted)


def test_a_prepare_that_is_killed_while_a_template_asks_for_more_had_been_waiting(container: Container) -> None:
    """The service then starts from SVCINIT_CACHE, or the exit status is 69 and not that of a wrong configuration."""
    put(container.templates / f"{container.etc}/d.j2".lstrip("/"), b"{{ service('db') | length }}")
    container.preparation()
    crew, settings = container.crew, container.settings
    source = Asked(settings, crew)
    run = transaction.Transaction(settings, ("main",), source)
    rendered = []
    hold = run.hold
    run.hold = lambda: rendered.append(crew.fetching()) or hold()  # type: ignore[method-assign,func-returns-value]
    crew.slots.verdict.write(Progress(Progress.FETCHING))
    run.run(crew.slots.verdict, crew.slots.fresh)
    assert source.waited == {"config/web": True, "db": True}
    assert rendered == [False], "what it does after that is its own fault"


@pytest.mark.parametrize(("error", "waits"), [(Unavailable("no answer"), True), (ConfigError("denied"), False)])
def test_after_a_refusal_a_prepare_that_hangs_does_not_count_as_waiting(
    container: Container, error: SvcinitError, waits: bool
) -> None:
    container.preparation()
    with pytest.raises(SvcinitError), transaction._fetching(container.crew.slots.verdict):
        raise error
    assert container.crew.fetching() is waits
