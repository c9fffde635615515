"""What no program can be given is told with its key or argument, before anything is started."""

from __future__ import annotations

import os
import pathlib
import resource

import pytest

from rendering import Data
from svcinit.agent.prepare import program
from svcinit.agent.prepare.source import Source
from svcinit.agent.prepare.transaction import Transaction
from svcinit.agent.templates.render import render_arguments
from svcinit.errors import ConfigError, Unavailable
from svcinit.processes import limits
from svcinit.settings import environment

LONGEST = limits.MAX_STRING


def fault(kv: dict[str, bytes]) -> str:
    with pytest.raises(ConfigError) as raised:
        program.variables(kv, "env", "exact")
    (found,) = raised.value.faults
    assert found.fields["key"] in kv
    return found


def of_keys(kv: dict[str, bytes], form: str = "exact") -> dict[str, str]:
    return program.environment(kv, program.variables(kv, "env", form))


def check_sum(mine: environment.Settings, given: tuple[str, ...], argv: list[str], env: dict[str, str]) -> None:
    program.check_sum(mine, given, argv, env, {name: f"env/{name}" for name in env})


def starts(argv: list[str], env: dict[str, str]) -> bool:
    """Does the kernel take it?"""
    pid = os.fork()
    if pid == 0:
        try:
            os.execve("/bin/true", argv, env)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("name", ["A/B", "A=B", "=", "A\0B", ""])
def test_a_key_that_cannot_be_a_variable_is_named(name: str) -> None:
    assert f"KV key {'env/' + name!r} cannot be an environment variable" in fault({f"env/{name}": b"x", "env/C": b"y"})


def test_half_a_surrogate_pair_in_a_key_is_told_and_other_odd_bytes_pass() -> None:
    assert "half a surrogate pair" in fault({"env/A\ud800": b"x"})
    assert "a NUL byte in its value" in fault({"env/A": b"x\0"})
    assert of_keys({"env/\udcff": b"\xff\n", "env/é": b""}) == {"\udcff": "\udcff\n", "é": ""}


def test_keys_are_variables_in_capitals_where_that_is_asked_for() -> None:
    kv = {"env/db/host-name": b"a", "env/log.level": b"b", "env/PORT": b"c", "env/é": b"d", "other/x": b"e"}
    found = {"DB_HOST_NAME": "a", "LOG_LEVEL": "b", "PORT": "c", "é": "d"}
    assert of_keys(kv, "upper") == found
    assert "cannot be an environment variable" in fault({"env/db/host": b"a"})


def test_two_keys_that_are_one_variable_are_a_fault_that_names_both() -> None:
    with pytest.raises(ConfigError) as raised:
        program.variables(
            {"env/db/host": b"a", "env/DB_HOST": b"b", "env/x": b"c", "env/db.host": b"d"}, "env", "upper"
        )
    assert [found.fields["key"] for found in raised.value.faults] == ["env/DB_HOST", "env/db.host"]
    assert all("DB_HOST" in found and "'env/" in found for found in raised.value.faults)


def test_the_longest_variable_and_argument_are_those_that_the_kernel_takes() -> None:
    most = LONGEST - len("BIG=")
    env = of_keys({"env/BIG": b"x" * most})
    assert starts(["true", "x" * LONGEST], env)
    assert not starts(["true"], {"BIG": "x" * (most + 1)})
    assert fault({"env/BIG": b"x" * (most + 1)}) == (
        f"KV key 'env/BIG' cannot be an environment variable: it takes {LONGEST + 1} bytes, and the kernel takes at "
        f"most {LONGEST}"
    )
    assert "it takes" in fault({"env/é": b"x" * (LONGEST - 2)})  # é has two bytes


def test_arguments_that_no_program_can_be_given_are_told_together_by_number() -> None:
    data = Data({"big": b"x" * (LONGEST + 1), "fits": b"x" * LONGEST})
    words = ["run", "{{ key('big') }}", "{{ key('fits') }}", "{{ '\"\\\\ud800\"'|from_json }}", "{{ '\\0' }}"]
    with pytest.raises(ConfigError) as raised:
        render_arguments(words, data)
    assert [told.partition("`: ")[2] for told in raised.value.faults] == [
        f"it takes {LONGEST + 1} bytes, and the kernel takes at most {LONGEST}",
        "its text would contain half a surrogate pair, which no argument can",
        "its text would contain a NUL byte, which no argument can",
    ]


@pytest.mark.parametrize("stack", [256 << 10, 1 << 20, 8 << 20, 64 << 20])
def test_the_sum_is_what_the_kernel_takes_under_any_stack_limit(stack: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, before[1]))
    try:
        room = limits.max_total() - limits.size(["true"]) - len("/bin/true\0")
        count, rest = divmod(room, 100_000)
        env = {f"V{number:03}": "x" * (100_000 - len("V000=\0") - 8) for number in range(count)}
        last = "x" * (rest - len("LAST=\0") - 8)
        assert starts(["true"], {**env, "LAST": last})
        assert not starts(["true"], {**env, "LAST": last + "x"})
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, before)


def values(count: int) -> dict[str, str]:
    return {f"V{number:03}": "x" * 100_000 for number in range(count)}


def test_too_much_together_is_told_with_the_largest_keys() -> None:
    mine, most = environment.read({}, "/nosuch"), limits.max_total() - limits.RESERVE
    env = {**values(most // 100_000 + 1), "LARGER": "x" * 100_001}
    with pytest.raises(ConfigError) as raised:
        check_sum(mine, ("run",), ["run"], env)
    (told,) = raised.value.faults
    assert f"and the kernel takes {most} beside what svcinit adds" in told
    assert told.endswith(
        "the largest are KV key env/LARGER (100001), KV key env/V000 (100000), KV key env/V001 (100000)"
    )
    assert told.fields["key"] == "env/LARGER"
    check_sum(mine, ("run",), ["run"], values(most // 100_000 - 1))


def test_what_the_container_was_given_is_left_to_the_kernel_until_kv_adds_to_it() -> None:
    full = environment.read({**values(limits.max_total() // 100_000), "MORE": "x" * 90_000}, "/nosuch")
    check_sum(full, ("run",), ["run"], {})
    with pytest.raises(ConfigError):
        check_sum(full, ("run",), ["run"], {"A": ""})
    with pytest.raises(ConfigError):
        check_sum(full, ("{{ a }}",), ["b"], {})


def test_hooks_with_long_commands_count_too() -> None:
    most = limits.max_total() - limits.RESERVE
    words = " ".join(["x" * 99] * 1000)
    mine = environment.read({"SVCINIT_PRE_START": words}, "/nosuch")
    env = values((most - 150_000) // 100_000)
    with pytest.raises(ConfigError):
        check_sum(mine, ("run",), ["run"], env)


def test_faults_of_environment_arguments_and_templates_are_told_together(tmp_path: pathlib.Path) -> None:
    (tmp_path / "app.j2").write_text("{{ nosuch }}")
    mine = environment.read({"SVCINIT_TEMPLATES": str(tmp_path), "SVCINIT_RENDER_ARGS": "1"}, "/nosuch")
    done = Transaction(mine, ("run", "{{ neither }}"), Source())
    done.data.kv = {"env/BIG": b"x" * 140_000}
    with pytest.raises(ConfigError) as raised:
        done.commit()
    said = "\n".join(raised.value.faults)
    assert len(raised.value.faults) == 3
    assert all(part in said for part in ("nosuch is not defined", "neither is not defined", "KV key 'env/BIG'"))


def test_what_is_wrong_is_told_before_what_is_away() -> None:
    away = Unavailable("away")

    def absent() -> None:
        raise away

    def wrong() -> None:
        raise ConfigError("wrong")

    with pytest.raises(ConfigError):
        program.together(absent, wrong)
    with pytest.raises(Unavailable) as raised:
        program.together(absent, list)
    assert raised.value is away


def test_the_changed_files_are_whole_lines_that_fit_and_the_rest_is_counted() -> None:
    paths = [f"/etc/{'é' * 100}/{number:04}" for number in range(1000)]
    found = limits.changed(paths, 1 << 20)
    named = found["SVCINIT_CHANGED"].split("\n")
    assert named == paths[: len(named)]
    assert 63 << 10 < limits.length(found["SVCINIT_CHANGED"]) <= limits.CHANGED
    assert found["SVCINIT_CHANGED_OMITTED"] == str(1000 - len(named))
    assert limits.changed(paths, -1) == {"SVCINIT_CHANGED": "", "SVCINIT_CHANGED_OMITTED": "1000"}
    assert limits.changed(paths[:2], 1 << 20) == {"SVCINIT_CHANGED": "\n".join(paths[:2])}
