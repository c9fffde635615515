"""Quick imports: the file of the bundle, modules that load when they are used, and a Python without OpenSSL."""

from __future__ import annotations

import marshal
import pathlib
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator

import pytest

from testing.process import ROOT

BUILDER = ROOT / "entrypoint" / "bundle" / "import_cache.py"
LIBRARIES = (
    "certifi", "dns", "idna", "jinja2", "markupsafe", "prometheus_client", "psutil", "requests", "urllib3", "yaml",
)  # fmt: skip
HEAD = 8  # bytes: the length of the head


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", "-I", "-S", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)


def run(library: pathlib.Path, code: str) -> str:
    """What `code` prints, run with svcinit from `library`."""
    return python("-c", f"import sys; sys.path[:0] = [{str(library)!r}]\n{code}").stdout


def restored(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file that the test may damage."""
    kept = path.read_bytes()
    yield path
    path.write_bytes(kept)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder as /opt/svcinit/lib, with its import-cache and init-cache."""
    folder = tmp_path_factory.mktemp("lib")
    shutil.copytree(ROOT / "entrypoint" / "svcinit", folder / "svcinit", ignore=shutil.ignore_patterns("__pycache__"))
    for package in LIBRARIES:
        (folder / package).symlink_to(pathlib.Path(sysconfig.get_path("purelib")) / package)
    command = [sys.executable, "-I", "-S", "-B", "-X", "no_debug_ranges", str(BUILDER), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture
def own(library: pathlib.Path) -> Iterator[pathlib.Path]:
    """The import-cache of the same folder."""
    yield from restored(library / "import-cache")


WHERE = """
import svcinit.agent, dns.name, requests.api
print(*(type(module.__loader__).__module__ for module in (dns.name, requests.api)))
"""
OURS, ORDINARY = "svcinit.agent.imports", "_frozen_importlib_external"


def test_the_libraries_come_from_the_file(library: pathlib.Path) -> None:
    assert run(library, WHERE).split() == [OURS, OURS]


def test_no_regular_expression_of_the_libraries_is_compiled_at_a_start(library: pathlib.Path) -> None:
    code = (
        "import svcinit.agent, svcinit.names\n"
        "from re import _parser\n"
        "found = []; parse = _parser.parse\n"
        "_parser.parse = lambda text, *rest: found.append(text) or parse(text, *rest)\n"
        "import svcinit.agent.consul.discovery, svcinit.agent.consul.api, svcinit.agent.templates.engine, urllib3\n"
        "print(found, bool(urllib3.util.url._URI_RE.match('http://a/b')))"
    )
    assert run(library, code) == "[] True\n"


def test_no_text_is_compiled_while_the_libraries_load(library: pathlib.Path) -> None:
    code = (
        "import svcinit.agent, sys\n"
        "from svcinit.agent import imports\n"
        "imports.avoid_openssl()\n"
        "found = []\n"
        "sys.addaudithook(lambda event, given: event == 'compile' and found.append(given[0]))\n"
        "import svcinit.agent.registration.presence, svcinit.agent.prepare.transaction\n"
        "import svcinit.agent.consul.discovery, svcinit.agent.templates.engine, svcinit.agent.fleet.records\n"
        "texts = [text for text in found if text is not None]\n"
        "eval('1'); print(texts, found[-1])"
    )
    assert run(library, code) == "[] b'1'\n"


def test_data_classes_and_named_tuples_have_their_fields_without_annotations(
    library: pathlib.Path, own: pathlib.Path
) -> None:
    code = (
        "import svcinit.agent, dataclasses, sys\n"
        "import svcinit.agent.fleet.conduct, svcinit.agent.templates.engine, svcinit.agent.consul.discovery, urllib3\n"
        "import requests, svcinit.agent.registration.presence\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    for kind in [each for each in vars(module or str).values() if isinstance(each, type)]:\n"
        "        if kind.__module__ == name:\n"
        "            fields = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []\n"
        "            fields += vars(kind).get('_fields', ())\n"
        "            if fields: print(name, kind.__name__, fields)"
    )
    found = run(library, code)
    assert "dns.message" in found
    assert "svcinit.agent.fleet" in found
    own.unlink()
    assert found == run(library, code)


def test_what_lies_in_kv_of_a_roll_out_is_read_as_it_was_written(library: pathlib.Path) -> None:
    """The readers of its fields go by their annotations."""
    code = (
        "import svcinit.agent\n"
        "from svcinit.agent.fleet.records import How, LogEntry, Plan, PlanState, Record, Turn, TurnState\n"
        "turn = Turn(n=1, serial=2, how=How.TURN, state=TurnState.CLAIMED, owner='me', seconds=0.5)\n"
        "plan = Plan(n=3, state=PlanState.ROLLING, failed=(('b', 'c'),), policy={'bake': '1s'}, paths=('p',))\n"
        "for value in plan, Record(life='d', turn=turn, left=True), LogEntry(n=4, by='e'):\n"
        "    print(type(value).parse(value.dump()) == value)"
    )
    assert run(library, code).split() == ["True"] * 3


def test_a_traceback_shows_the_lines_of_the_source(library: pathlib.Path) -> None:
    code = (
        "import svcinit.agent, traceback\n"
        "from svcinit.agent.consul import backoff\n"
        "try: backoff.pause_before(None, None)\n"
        "except Exception: print(traceback.format_exc())"
    )
    source = library / "svcinit" / "agent" / "consul" / "backoff.py"
    (line,) = [line for line in run(library, code).splitlines() if str(source) in line]
    number = int(line.split("line ")[1].split(",")[0])
    assert source.read_text().splitlines()[number - 1].strip() in run(library, code)


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", lambda data: data[:5], lambda data: data[:1000], lambda data: b"\xff" * 8 + data[8:],
     lambda data: data[:HEAD] + b"\0" * 2000 + data[2000:]],
    ids=["empty", "shorter-than-the-length", "half-a-head", "length-of-nonsense", "head-of-nonsense"],
)  # fmt: skip
def test_a_damaged_file_is_as_if_there_were_none(
    library: pathlib.Path, own: pathlib.Path, damage: Callable[[bytes], bytes]
) -> None:
    own.write_bytes(damage(own.read_bytes()))
    assert run(library, WHERE).split() == [ORDINARY, ORDINARY]


def test_a_file_that_lost_its_end_falls_back_module_by_module(library: pathlib.Path, own: pathlib.Path) -> None:
    data = own.read_bytes()
    own.write_bytes(data[: HEAD + int.from_bytes(data[:HEAD], "big") + 100])
    assert run(library, WHERE + "print(requests.get.__name__)").split() == [OURS, OURS, "get"]


def test_a_file_of_another_python_or_another_place_is_not_used(library: pathlib.Path, tmp_path: pathlib.Path) -> None:
    moved = tmp_path / "lib"
    shutil.copytree(library, moved, symlinks=True)
    assert run(moved, WHERE).split() == [ORDINARY, ORDINARY]


def test_a_module_that_was_deferred_is_there_when_it_is_used(library: pathlib.Path) -> None:
    code = (
        "import svcinit.agent, sys, zipfile, importlib.metadata\n"
        "from importlib.metadata import version\n"
        "before = [bool(sys.modules.get(name)) for name in ('csv', 'lzma')]\n"
        "print(before, zipfile.ZipFile.__name__, callable(version), importlib.metadata.PackageNotFoundError.__name__)\n"
        "try: version('none-of-this-name')\n"
        "except importlib.metadata.PackageNotFoundError: print('not found')\n"
        "import zipfile; print(zipfile.__spec__.name)"
    )
    assert run(library, code) == ("[False, False] ZipFile True PackageNotFoundError\nnot found\nzipfile\n")


def test_the_modules_that_only_other_uses_need_do_not_load_with_the_client_of_consul(library: pathlib.Path) -> None:
    code = (
        "import sys\n"
        "from svcinit.agent import imports\n"
        "imports.avoid_openssl()\n"
        "from svcinit.agent.consul import http\n"
        "import requests.compat, idna, urllib.request\n"
        "names = 'idna.core', 'shutil', 'urllib.response', 'bz2', '_lzma', 'urllib3.contrib.socks'\n"
        "print([name for name in names if sys.modules.get(name)])\n"
        "print(requests.compat.parse_http_list('a, b'), idna.encode('b\\xfccher'), urllib.request.FileHandler.__name__)"
    )
    assert run(library, code) == "[]\n['a', 'b'] b'xn--bcher-kva' FileHandler\n"


def test_the_modules_that_only_other_uses_need_do_not_load_with_templates_and_dns(library: pathlib.Path) -> None:
    """A start loaded all of them, which took 7 ms."""
    code = (
        "import sys\n"
        "import svcinit.agent.templates.engine, svcinit.agent.consul.discovery, svcinit.agent.registration.presence\n"
        "names = 'calendar', 'dis', 'inspect', 'ipaddress', 'locale', 'mimetypes', 'pickle', 'tokenize', 'traceback'\n"
        "print([name for name in ('_ast', 'ast', *names) if getattr(sys.modules.get(name), '__spec__', None)])"
    )
    assert run(library, code) == "[]\n"


def test_what_was_deferred_works_as_if_it_had_been_loaded(library: pathlib.Path) -> None:
    code = (
        "import sys\n"
        "import svcinit.agent.templates.engine, svcinit.agent.consul.api, svcinit.agent.consul.discovery\n"
        "import jinja2, logging, datetime, http.cookiejar, urllib.parse, inspect, ipaddress, mimetypes\n"
        "from ipaddress import IPv4Address\n"
        "print(isinstance('::1', ipaddress.IPv6Address), IPv4Address('10.0.0.1').is_private)\n"
        "print(jinja2.Environment().from_string('{{ 1.5 }} {{ x|attr(\"real\") }}').render(x=3))\n"
        "print(http.cookiejar.http2time('Wed, 09 Feb 1994 22:23:32 GMT'))\n"
        "print(urllib.parse.urlsplit('http://[::1]:8500/').hostname, ipaddress.ip_address('::1').version)\n"
        "print(datetime.datetime.strptime('2026', '%Y').replace(tzinfo=datetime.UTC).isoformat())\n"
        "print(inspect.signature(lambda a: a), mimetypes.guess_type('a.html')[0])\n"
        "import pickle; print(pickle.loads(pickle.dumps(datetime.date(2026, 1, 2))))\n"
        "logging.basicConfig(stream=sys.stdout, format='%(message)s')\n"
        "try: raise ValueError('oops')\n"
        "except ValueError: logging.exception('caught')"
    )
    assert run(library, code).splitlines() == [
        "False True", "1.5 3", "760832612.0", "::1 6", "2026-01-01T00:00:00+00:00", "(a) text/html", "2026-01-02",
        "caught", "Traceback (most recent call last):", '  File "<string>", line 14, in <module>', "ValueError: oops",
    ]  # fmt: skip


def test_no_openssl_is_loaded_as_long_as_no_address_is_https(library: pathlib.Path) -> None:
    code = (
        "import sys\n"
        "from svcinit.agent import imports\n"
        "imports.avoid_openssl()\n"
        "import hashlib, requests\n"
        "from svcinit.agent.consul import api\n"
        "loaded = [name for name in ('_ssl', '_hashlib') if sys.modules.get(name)]\n"
        "print(loaded, hashlib.sha256(b'').hexdigest()[:8], 'libcrypto' in open('/proc/self/maps').read())\n"
        "imports.allow_openssl()\n"
        "import ssl, certifi; print(bool(ssl.create_default_context()), bool(open(certifi.where()).read(1)))"
    )
    assert run(library, code) == "[] e3b0c442 False\nTrue True\n"


def test_openssl_is_loaded_once_for_https_probes_and_not_in_the_child_of_each(library: pathlib.Path) -> None:
    code = (
        "import sys\n"
        "from svcinit.agent import imports\n"
        "imports.avoid_openssl()\n"
        "from svcinit.agent.registration.checks import Check\n"
        "from svcinit.agent.registration.probes import Probe\n"
        "from svcinit.settings.parsers import check\n"
        "for text in ('http:/', 'https:/'):\n"
        "    Probe(Check(check(text), 1, '', {'successes': 1, 'failures': 1}), str, None)\n"
        "    print(bool(sys.modules.get('_ssl')))"
    )
    assert run(library, code).split() == ["False", "True"]


# init


def launch_script(library: pathlib.Path) -> str:
    """What the launcher runs, with this folder as /opt/svcinit/lib."""
    return (ROOT / "entrypoint" / "bundle" / "svcinit.py").read_text().replace("/opt/svcinit/lib", str(library))


def launched(library: pathlib.Path, code: str) -> str:
    """What `code` prints after the script of the launcher has been read."""
    return python("-c", f"exec({launch_script(library)!r}, {{'__name__': 'launch'}})\n{code}").stdout


@pytest.fixture
def of_init(library: pathlib.Path) -> Iterator[pathlib.Path]:
    """The init-cache of the same folder."""
    yield from restored(library / "init-cache")


STARTED = """
import sys
from svcinit.lifecycle import table
from svcinit.settings import environment
print(type(table.__loader__).__name__, environment.read({}, '/nosuch').plain)
"""
WHOLE = """
import importlib, pkgutil, svcinit
found = [each.name for each in pkgutil.walk_packages(svcinit.__path__, 'svcinit.')]
for module in [importlib.import_module(name) for name in found if '.agent' not in name and '.ctl' not in name]:
    names = sorted(name for name in vars(module) if not name.startswith('__') and name != 'annotations')
    print(module.__name__, module.__package__, module.__file__, getattr(module, '__path__', None), names)
"""


def test_the_modules_of_init_come_from_one_file(library: pathlib.Path) -> None:
    assert launched(library, STARTED).split() == ["Finder", "True"]


def test_the_modules_of_init_are_the_same_from_the_file_as_from_their_sources(
    library: pathlib.Path, of_init: pathlib.Path
) -> None:
    found = launched(library, WHOLE)
    assert "svcinit.handover" in found
    of_init.unlink()
    assert found == launched(library, WHOLE)


def test_all_that_a_plain_init_imports_is_loaded_at_once(library: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """In the order in which the modules need each other: -X importtime tells of each import."""
    (tmp_path / "svcinit.py").write_text(launch_script(library))
    said = python("-X", "importtime", str(tmp_path / "svcinit.py"), "true").stderr
    assert "encodings" in said
    assert "svcinit" not in said


def test_a_module_that_fails_halfway_leaves_nothing_of_the_file_behind(
    library: pathlib.Path, of_init: pathlib.Path
) -> None:
    data = of_init.read_bytes()
    start = HEAD + int.from_bytes(data[:HEAD], "big")
    version, (offset, length), modules = marshal.loads(data[HEAD:start])
    first = marshal.loads(data[start + offset : start + offset + length])
    first[4] = (*first[4][:3], compile("raise OSError", "broken", "exec"))
    broken = marshal.dumps(first)
    head = marshal.dumps((version, (0, len(broken)), modules))
    of_init.write_bytes(len(head).to_bytes(HEAD, "big") + head + broken)
    assert launched(library, STARTED).split() == ["SourceFileLoader", "True"]


def test_a_module_behind_the_end_of_the_file_comes_from_its_source(
    library: pathlib.Path, of_init: pathlib.Path
) -> None:
    of_init.write_bytes(of_init.read_bytes()[:-100])
    code = "from svcinit import state_files\nprint(type(state_files.__loader__).__name__)"
    assert launched(library, STARTED + code).split() == ["Finder", "True", "SourceFileLoader"]


@pytest.mark.parametrize("damage", ["missing", "empty", "head", "body", "garbage", "another Python"])
def test_init_starts_whatever_is_in_its_file(library: pathlib.Path, of_init: pathlib.Path, damage: str) -> None:
    data = of_init.read_bytes()
    length = int.from_bytes(data[:HEAD], "big")
    if damage == "missing":
        of_init.unlink()
    else:
        of_init.write_bytes({
            "empty": b"", "head": data[: HEAD + length // 2], "body": data[: HEAD + length + 100],
            "garbage": data[: HEAD + length] + bytes(len(data)),
            "another Python": data.replace(sys.version.encode(), b"4" + sys.version.encode()[1:]),
        }[damage])  # fmt: skip
    assert launched(library, STARTED).split() == ["SourceFileLoader", "True"]


def test_a_plain_init_imports_no_module_that_it_has_no_use_for(library: pathlib.Path) -> None:
    """os alone took a tenth of its start."""
    code = "print([name for name in ('os', 'stat', 're', 'enum') if name in sys.modules])"
    assert launched(library, STARTED + code).splitlines()[1:] == ["[]"]
