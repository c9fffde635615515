"""/opt/svcinit needs nothing of the image that it lies in, and what an app does to its interpreter stays its own."""

from __future__ import annotations

import json
import pathlib
import shutil
import signal
import struct
import subprocess
import tarfile

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from testing import images
from testing.architecture import NEVER_BLOCKED, TESTED
from testing.consul import ConsulAgent, free_ports
from testing.docker import Engine, Failed, build
from testing.parts import tool_path
from testing.scrape import scraped
from testing.waiting import eventually
from tests.docker.conftest import ROOT
from tools import release

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(300)]
TERMINATED = 143
MACHINES = {62: "amd64", 183: "arm64"}  # EM_X86_64 and EM_AARCH64 of elf(5)
CONTEXT = "Dockerfile.base", "entrypoint", "images/shared", "requirements", "templates"  # what Dockerfile.base reads


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The context of the foreign images, the least of Debian 11 in it."""
    folder = tmp_path_factory.mktemp("foreign") / "context"
    shutil.copytree(images.FOREIGN, folder)
    shutil.copytree(tool_path("debian11-root", TESTED), folder / "debian11", symlinks=True)
    return folder


@pytest.mark.parametrize(
    ("suite", "libc"),
    [
        ("bookworm", "static"), ("bookworm", "musl"), ("bookworm", "debian11"), ("trixie", "static"),
        pytest.param("sid", "static", marks=pytest.mark.parts),
        # This one builds Python.
        pytest.param(images.FROM_SOURCE, "static", marks=[pytest.mark.parts, pytest.mark.timeout(900)]),
    ],
)  # fmt: skip
def test_the_whole_life_in_an_image_without_python_whatever_its_libc_and_where_svcinit_was_built(
    engine: Engine, consul: ConsulAgent, foreign: pathlib.Path, base_image: str, suite: str, libc: str,
    tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    bundle = images.svcinit(suite)
    image = build(foreign, f"svcinit-foreign-{suite}-{libc}", target=libc, BASE_IMAGE=base_image, SVCINIT_IMAGE=bundle)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "app.conf.j2").write_text('{{ key("greeting") }} {{ service("db")|hostports|join(",") }}\n')
    for path in (tmp_path, tmp_path / "etc"):
        path.chmod(0o755)
    consul.kv_put("config/web/greeting", "hello")
    consul.register("db", 3306, address="10.1.1.1")
    port, metrics = free_ports(2)
    env = {
        **consul.env, "SVCINIT_SERVICE": "web", "SVCINIT_PORT": str(port), "SVCINIT_CHECK_INTERVAL": "200ms",
        "SVCINIT_DRAIN": "0s", "SVCINIT_RENDER_ARGS": "1", "SVCINIT_CACHE": "",
        "SVCINIT_METRICS": f"127.0.0.1:{metrics}",
    }  # fmt: skip
    container = engine.run(image, env=env, options=["--volume", f"{tmp_path}:/etc/svcinit/templates:ro"])
    eventually(lambda: consul.passing("web"), f"it is passing: {container.logs}", 20)
    status = json.loads(container.exec("/usr/local/bin/svcinitctl", "status", "--json", user="0"))
    assert status["state"] == "running"
    assert set(status["processes"]) == {"init", "presence", "metrics", "main"}
    assert scraped(metrics).value("registered", service="web") == 1
    consul.kv_put("config/web/greeting", "hello again")
    container.kill("HUP")
    container.says("reload 1: done")
    assert container.copy("/etc/app.conf") == b"hello again 10.1.1.1:3306\n"
    assert container.stop() == TERMINATED
    consul.has_no("web")


@pytest.mark.parametrize(("suite", "library"), [("bookworm", "libssl3"), ("trixie", "libssl3t64")])
def test_the_image_has_a_bill_of_materials_with_the_versions_that_are_in_it(
    engine: Engine, suite: str, library: str
) -> None:
    options = ["--entrypoint", "/opt/svcinit/python/bin/python3"]  # nothing else is in this image
    container = engine.run(images.svcinit(suite), "-IS", "-c", "import time; time.sleep(100)", options=options)
    text = container.copy("/opt/svcinit/svcinit.cdx.json").decode()
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(text) is None
    versions = {each["name"]: each["version"] for each in json.loads(text)["components"]}
    code = "import platform, ssl, requests; print(platform.python_version(), ssl.OPENSSL_VERSION, requests.__version__)"
    path = "import sys; sys.path.append('/opt/svcinit/lib')"
    said = container.exec(
        "/opt/svcinit/python/bin/python3", "-IS", "-Wignore", "-c", f"{path}; {code}", user="0"
    ).split()
    python, openssl, requests = said[0], said[2], said[-1]
    assert versions["cpython"] == python
    assert versions[library].startswith(openssl)
    assert versions["requests"] == requests
    assert "libc6" in versions
    assert "charset-normalizer" not in versions  # the bundle leaves it out


def copy_context(folder: pathlib.Path) -> None:
    for name in CONTEXT:
        source = ROOT / name
        (folder / name).parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)


def test_a_release_has_the_bundle_for_an_architecture_with_its_own_bill_of_materials(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, first, second = tmp_path / "tree", tmp_path / "first", tmp_path / "second"
    for folder in (tree, first, second):
        folder.mkdir()
    copy_context(tree)
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z")
    for command in ("init", "add --all", "-c user.name=n -c user.email=e@localhost commit --message=all"):
        subprocess.run(["git", *command.split()], cwd=tree, check=True, capture_output=True)
    archive, bill = release.bundle(tree, first, TESTED)
    assert archive.name == f"svcinit-{release.declared(tree)}-linux-{TESTED}.tar.gz"
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(bill.read_text()) is None
    assert f"arch={TESTED}&" in bill.read_text()
    with tarfile.open(archive) as content:
        assert {member.mtime for member in content} == {1767225600}
        launcher = content.extractfile("opt/svcinit/bin/svcinit")
        assert launcher
        (machine,) = struct.unpack("<H", launcher.read(20)[18:])  # e_machine: elf(5)
    assert MACHINES[machine] == TESTED
    assert release.digest(release.bundle(tree, second, TESTED)[0]) == release.digest(archive)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("for file in home.glob('python/lib/libffi.so*'): file.unlink()", "libffi.so.* cannot open"),
        (
            "for file in home.glob('lib/yaml/_yaml*.so'): os.truncate(file, 4096)",
            "yaml The command .* returned a non-zero code",
        ),
    ],
    ids=["missing", "broken"],
)
def test_the_build_fails_when_a_library_is_missing_or_broken(
    base_image: str, tmp_path: pathlib.Path, fault: str, said: str
) -> None:
    copy_context(tmp_path)
    with (tmp_path / "entrypoint" / "bundle" / "bundle.py").open("a") as script:
        script.write(f"\nimport os\nhome = pathlib.Path(sys.argv[1])\n{fault}\n")
    with pytest.raises(Failed, match=said):
        build(tmp_path, "svcinit-base-of-a-fault", file=tmp_path / "Dockerfile.base", BASE_IMAGE=base_image)


def test_the_apps_loader_and_interpreter_settings_reach_the_app_and_nobody_else(
    engine: Engine, bare_image: str, tmp_path: pathlib.Path
) -> None:
    tmp_path.chmod(0o755)
    for name in ("libz.so.1", "libexpat.so.1", "libssl.so.3", "libcrypto.so.3", "libm.so.6"):
        (tmp_path / name).write_text("no library\n")
    for name in ("entrypoint.py", "svcinit.py", "os.py", "json.py", "usercustomize.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit('the app got into PID 1')\n")
    env = {
        "LD_LIBRARY_PATH": "/app", "LD_PRELOAD": "/app/none.so", "LD_BIND_NOW": "1",
        "GLIBC_TUNABLES": "glibc.malloc.check=0",
        "PYTHONPATH": "/app", "PYTHONHOME": "/nowhere", "PYTHONSTARTUP": "/app/os.py", "SVCINIT_PRE_START": "true",
    }  # fmt: skip
    container = engine.run(
        bare_image, "sh", "-c", "export -p", env=env,
        options=["--volume", f"{tmp_path}:/app:ro", "--workdir", "/app"],
    )  # fmt: skip
    assert container.wait() == 0, container.logs
    for name, value in env.items():
        assert f"export {name}='{value}'" in container.logs
    assert "SVCINIT@" not in container.logs
    assert "got into PID 1" not in container.logs
    hook_and_main = 2
    assert container.logs.count("/app/none.so' from LD_PRELOAD cannot be preloaded") == hook_and_main


@pytest.mark.not_emulated("it passes on no entry of the environment that is a duplicate or has no name")
def test_entries_of_the_environment_that_no_mapping_holds_reach_the_app(engine: Engine, bare_image: str) -> None:
    given = ["PATH=/usr/bin:/bin", "=foo", "bare", "A=1", "A=2", "LD_X=1", "LD_X=2", "SVCINIT@A=3"]
    launch = (
        "import sys; sys.path.append('/opt/svcinit/lib'); from svcinit.processes.raw_exec import execve\n"
        f"execve('/opt/svcinit/bin/svcinit', ['svcinit', 'cat', '/proc/self/environ'], {given})"
    )
    container = engine.run(bare_image, "sleep", "60")
    seen = container.exec("/opt/svcinit/python/bin/python3", "-ISc", launch)
    assert sorted(seen.rstrip("\0").split("\0")) == sorted(given)


def test_a_reload_that_is_a_restart_leaves_alone_who_waits_for_it(engine: Engine, bare_image: str) -> None:
    command = "trap 'exit 0' TERM; sleep 1000 & wait"  # which leaves a process behind
    container = engine.run(bare_image, "sh", "-c", command, env={"SVCINIT_RELOAD": "restart"})
    container.exec("sh", "-c", "until svcinitctl health; do sleep 0.1; done")
    assert container.exec("svcinitctl", "reload") == "reloaded"
    assert container.stop() == 0


def test_a_signal_that_comes_before_the_interpreter_is_up_waits(
    engine: Engine, bare_image: str, tmp_path: pathlib.Path
) -> None:
    slow = tmp_path / "interpreter"
    # not of /proc: an emulator has a mask of its own
    slow.write_text(
        "#!/usr/bin/python3\nimport signal\nprint(*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))\n"
    )
    slow.chmod(0o755)
    options = ["--volume", f"{slow}:/opt/svcinit/python/bin/python3:ro"]
    container = engine.run(bare_image, "true", options=options)
    assert container.wait() == 0
    blocked = {int(number) for number in container.logs.split()}
    assert {*signal.valid_signals()} - blocked <= NEVER_BLOCKED
