"""The settings table: what a person who writes `docker run -e` gets for right and for wrong values."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib

import pytest

from svcinit.agent.registration import services
from svcinit.errors import ConfigError, Fault
from svcinit.settings import environment
from svcinit.settings.environment import Settings
from svcinit.settings.parsers import Target
from svcinit.settings.table import EMPTY, GROUPS, PRIVATE, SECRET, TABLE, Variable
from tools.settings_page import PAGE, page

ELSEWHERE = ("search", 1, "dc2"), ("blue.db", 3, "dc2"), ("geo.query", 1, None)
WEB = {"SVCINIT_SERVICE": "web", "SVCINIT_PORT": "8000"}


def faults(**env: str) -> tuple[Fault, ...]:
    with pytest.raises(ConfigError) as caught:
        environment.read(env)
    return caught.value.faults


def test_an_empty_environment_is_a_plain_init() -> None:
    assert environment.read({}).plain


@pytest.mark.parametrize(
    "env",
    [
        WEB,
        {"SVCINIT_KV_PREFIX": "config/a"},
        {"SVCINIT_WAIT_FOR": "mysql"},
        {"SVCINIT_STOP_TIMEOUT": "5s"},
        {"SVCINIT_PRE_START": "true"},
        {"SVCINIT_RELOAD": "restart"},
    ],
)
def test_anything_configured_is_not_a_plain_init(env: dict[str, str]) -> None:
    assert not environment.read(env).plain


def test_all_faults_are_reported_together_each_with_what_was_given_and_expected() -> None:
    found = faults(SVCINIT_PORT="80x", SVCINIT_DRAIN="1", SVCINIT_STOP_ON="KILL", SVCINIT_SERVCE="web")
    assert found == (
        "SVCINIT_SERVCE is not a variable of svcinit; did you mean SVCINIT_SERVICE?",
        "SVCINIT_PORT='80x': expected a port number from 1 to 65535",
        "SVCINIT_DRAIN='1': expected a duration such as 500ms, 10s, 5m or 1h",
        "SVCINIT_STOP_ON='KILL': 'KILL' never arrives as a request: KILL and STOP cannot be caught, CHLD is init's own",
    )


@pytest.mark.parametrize("name", ["SVCINIT_BUILD", "SVCINIT_RELEASE_DATE", "SVCINIT_FOO"])
def test_a_name_that_is_like_no_variable_gets_no_nonsense_as_a_hint(name: str) -> None:
    assert faults(**{name: "1"})[0] == f"{name} is not a variable of svcinit; svcinit --help lists them all"


def test_a_version_that_a_dockerfile_pins_is_no_mistake() -> None:
    assert environment.read({"SVCINIT_VERSION": "0.1.0"}).plain
    assert environment.read({"SVCINIT_VERSION": ""}).plain


def test_what_contradicts_itself_is_told_beside_what_is_wrong_unless_that_may_be_why() -> None:
    assert faults(SVCINIT_SERVICE="web", SVCINIT_DRAIN="soon", SVCINIT_READY="tcp", SVCINIT_STOP="restart") == (
        "SVCINIT_DRAIN='soon': expected a duration such as 500ms, 10s, 5m or 1h",
        "SVCINIT_READY=tcp needs SVCINIT_PORT: the port to probe",
        "SVCINIT_STOP='restart': a stop cannot be a restart; expected signal:, write:, exec: or none",
    )
    (fault,) = faults(SVCINIT_SERVICE="web", SVCINIT_PORT="80x", SVCINIT_READY="tcp")
    assert fault.startswith("SVCINIT_PORT='80x'")


def test_what_is_wrong_counts_as_unset_for_whoever_looks_at_the_rest() -> None:
    found, wrong = environment.attempt({**WEB, "SVCINIT_DRAIN": "soon", "SVCINIT_USER": "nobody-here"})
    assert (found.service, found.port, found.drain, found.user, len(wrong)) == ("web", 8000, 1.0, None, 2)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SVCINIT_SERVICE", "my web", "expected letters, digits, '-' and '_'"),
        ("SVCINIT_PORT", "0", "from 1 to 65535"),
        ("SVCINIT_META", "a", "and found 'a'"),
        (
            "SVCINIT_CHECK",
            "http",
            "expected http:/path, https:/path, http://HOST:PORT/path, tcp, tcp:HOST:PORT, grpc, grpcs, ",
        ),
        ("SVCINIT_CHECK", "https:health", "expected http:/path"),
        ("SVCINIT_RENDER_ARGS", "maybe", "expected 1, true, yes, 0, false or no"),
        ("SVCINIT_START_TIMEOUT", "0s", "at least 1ms"),
        ("SVCINIT_CHECK_INTERVAL", "0.4ms", "at least 1ms"),
        ("SVCINIT_CHECK_TIMEOUT", "0.0009s", "at least 1ms"),
        ("SVCINIT_START_TIMEOUT", "-1s", "expected a duration"),
        ("SVCINIT_DNS_ADDR", "host:dns", "expected a port number"),
        ("SVCINIT_WAIT_FOR", "mysql:0", "expected NAME, NAME:COUNT or NAME:COUNT@DATACENTER"),
        ("SVCINIT_WAIT_FOR_KEYS", "/", "expected names of keys"),
        ("SVCINIT_WAIT_FOR_KEYS", "/a,//", "expected names of keys"),
        ("SVCINIT_WAIT_FOR_KEYS", "a//b", "expected names of keys"),
        ("SVCINIT_WAIT_FOR_KEYS", "/config/../x/", "expected names of keys such as db/url,features, without"),
        ("SVCINIT_WAIT_FOR_KEYS", "./x", "an empty part, '.' or '..' between slashes"),
        ("SVCINIT_ENV_FORMAT", "lower", "expected exact or upper"),
        ("SVCINIT_START_WITHOUT", "nothing", "expected cache or defaults"),
        ("SVCINIT_WAIT_FOR", "mysql@", "expected NAME, NAME:COUNT or NAME:COUNT@DATACENTER"),
        ("SVCINIT_SIGNALS", "TERM", "expected FROM:TO"),
        ("SVCINIT_SIGNALS", "TERM:NOPE", "'NOPE' is no signal"),
        ("SVCINIT_STOP_ON", "RTMIN+99", "is no signal"),
        ("SVCINIT_STOP", "write:relative:q", "expected signal:NAME, write:/PATH:TEXT"),
        ("SVCINIT_STOP", "restart", "a stop cannot be a restart"),
        ("SVCINIT_RELOAD", "exec:", "expected signal:NAME"),
        ("SVCINIT_PRE_START", "echo 'x", "no closing quotation"),
        ("SVCINIT_USER", "nosuchuser", "there is no user 'nosuchuser' in this image"),
        ("SVCINIT_USER", "0:nosuchgroup", "there is no group 'nosuchgroup' in this image"),
        ("SVCINIT_USER", "0:", "expected USER or USER:GROUP"),
        ("SVCINIT_LOG_LEVEL", "loud", "expected debug, info, warning or error"),
        ("SVCINIT_STOP_TIMEOUT", "99999999999h", "at most a year"),
        ("SVCINIT_ID", "a b", "expected printable ASCII"),
        ("SVCINIT_META", "a b=1", "expected k=v,k=v with keys of letters"),
        ("SVCINIT_META", "svcinit=1", "svcinit's own"),
        ("SVCINIT_KV_PREFIX", "a//b", "expected prefixes such as"),
        ("SVCINIT_KV_PREFIX", "config/./shop", "an empty part, '.' or '..' between slashes"),
        ("SVCINIT_KV_PREFIX", "config/shop,..@dc2", "expected prefixes such as"),
        ("SVCINIT_ROLL_PREFIX", "svcinit/../web", "expected prefixes such as"),
        ("SVCINIT_KV_PREFIX", "config/all@", "expected prefixes such as"),
        ("SVCINIT_WAIT_FOR", "db@dc2:2", "expected NAME, NAME:COUNT or NAME:COUNT@DATACENTER"),
        ("SVCINIT_WAIT_FOR", "blue..db", "expected names of letters"),
        ("SVCINIT_WAIT_FOR", "db:none", "expected NAME, NAME:COUNT"),
        ("SVCINIT_CHECK_HEADERS", "no colon", "expected NAME:VALUE,NAME:VALUE"),
        ("SVCINIT_DOMAIN", "my domain", "expected a domain such as consul"),
        ("SVCINIT_CHECK_METHOD", "GET /", "expected a method of HTTP"),
        ("SVCINIT_CHECK_FAILURES", "0", "expected a number from 1 to 1000"),
        ("SVCINIT_CHECK_VIA", "nagios", "expected consul or ttl"),
        (
            "SVCINIT_READY",
            "grpc",
            "expected http:/path, https:/path, http://HOST:PORT/path, tcp, tcp:HOST:PORT, exec:COMMAND or none",
        ),
        ("SVCINIT_READY", "tcp", "needs SVCINIT_SERVICE"),
        ("SVCINIT_SERVICES", "[]", "needs SVCINIT_SERVICE"),
        ("SVCINIT_ROLL", "manual", "needs SVCINIT_SERVICE"),
        ("SVCINIT_ROLL", "on", "expected off, manual or auto"),
        ("SVCINIT_ROLL_PREFIX", "svcinit/a,svcinit/b", "expected one prefix such as svcinit/web"),
        ("SVCINIT_ROLL_PREFIX", "svcinit/a@dc2", "expected one prefix such as svcinit/web"),
        ("CONSUL_HTTP_TOKEN", "se\ncret", "(not shown): expected printable ASCII"),
        ("SVCINIT_TEMPLATES", "/nosuch", "no directory at /nosuch"),
        ("SVCINIT_DEREGISTER_AFTER", "30s", "below 1m, the least that Consul takes"),
    ],
)
def test_a_wrong_value_is_told_with_what_was_expected(name: str, value: str, expected: str) -> None:
    (fault,) = faults(**{name: value})
    assert fault.startswith(name)
    assert expected in fault


def test_a_check_without_a_port_to_probe_is_a_fault() -> None:
    assert faults(SVCINIT_SERVICE="web", SVCINIT_CHECK="tcp") == (
        "SVCINIT_CHECK=tcp needs SVCINIT_PORT: the port to probe",
    )


@pytest.mark.parametrize(
    ("prefix", "kv", "wrong"),
    [
        ("config/web", "config/web", True),
        ("config/web/roll", "config/web", True),
        ("config", "config/web", True),
        ("config/webroll", "config/web", False),
        ("svcinit/web", "config/web@dc2,svcinit/_all", False),
    ],
)
def test_the_state_of_roll_outs_and_the_configuration_are_apart(prefix: str, kv: str, wrong: bool) -> None:
    given = {"SVCINIT_SERVICE": "web", "SVCINIT_ROLL_PREFIX": prefix, "SVCINIT_KV_PREFIX": kv}
    with pytest.raises(ConfigError, match="one is below the other") if wrong else contextlib.nullcontext():
        environment.read({**given, "SVCINIT_ROLL": "manual"})
    environment.read(given)


def test_a_file_is_not_rolled_out() -> None:
    (fault,) = faults(SVCINIT_SERVICE="web", SVCINIT_ROLL="auto", SVCINIT_SOURCE="file:/x")
    assert fault == "SVCINIT_ROLL needs SVCINIT_SOURCE=consul: a file is not rolled out"


def test_a_check_that_svcinit_cannot_do_itself_is_a_fault() -> None:
    given = {"SVCINIT_SERVICE": "web", "SVCINIT_PORT": "1", "SVCINIT_CHECK": "grpc", "SVCINIT_CHECK_VIA": "ttl"}
    assert faults(**given) == ("SVCINIT_CHECK=grpc needs SVCINIT_CHECK_VIA=consul: svcinit itself cannot probe gRPC",)


def test_the_nearest_known_variable_is_suggested_for_a_file_variant_too() -> None:
    assert faults(SVCINIT_TAG_FILE="/x") == (
        "SVCINIT_TAG_FILE is not a variable of svcinit; did you mean SVCINIT_TAGS?",
    )


def test_any_variable_may_be_read_from_a_file(tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    read = environment.read({"CONSUL_HTTP_TOKEN_FILE": str(secret)})
    assert read.consul_http_token == "s3cret"


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: pathlib.Path) -> None:
    missing = str(tmp_path / "missing")
    assert faults(SVCINIT_TAGS_FILE=missing) == (
        f"SVCINIT_TAGS_FILE={missing!r} cannot be read: No such file or directory",
    )


def test_a_variable_and_its_file_are_one_too_many(tmp_path: pathlib.Path) -> None:
    given = tmp_path / "tags"
    given.write_text("a")
    (fault,) = faults(SVCINIT_TAGS="b", SVCINIT_TAGS_FILE=str(given))
    assert "give one of the two" in fault


def test_an_empty_value_is_unset_but_an_empty_prefix_means_none() -> None:
    read = environment.read(
        {**WEB, "SVCINIT_TAGS": "", "SVCINIT_DRAIN": "", "SVCINIT_KV_PREFIX": "", "SVCINIT_PORT_CHECK": "0"}
    )
    assert (read.tags, read.drain, read.kv_prefix) == ((), 1.0, ())


def test_what_is_derived_from_the_service_name() -> None:
    read = environment.read(WEB)
    assert read.id == f"web-{os.uname().nodename}-8000"
    assert read.kv_prefix == (("config/web", None),)
    assert read.check.key == Target("tcp").key


@pytest.mark.parametrize(
    ("address", "server"),
    [
        ("10.1.2.3:8500", ("10.1.2.3", 8600)),
        ("https://consul.example:8501/base", ("consul.example", 8600)),
        ("http://[::1]:8500", ("::1", 8600)),
        ("unix:///run/consul.sock", ("127.0.0.1", 8600)),
    ],
)
def test_dns_is_asked_where_consul_is_unless_told_otherwise(address: str, server: tuple[str, int]) -> None:
    assert environment.read({"CONSUL_HTTP_ADDR": address}).dns_addr == (server,)


def test_values_are_read_as_their_kind() -> None:
    read = environment.read(
        {
            "SVCINIT_DNS_ADDR": "10.0.0.1,[::1]:53",
            "SVCINIT_WAIT_FOR": "mysql,redis:2,search@dc2,blue.db:3@dc2,geo.query",
            "SVCINIT_KV_PREFIX": "config/web",
            "SVCINIT_WAIT_FOR_KEYS": "db/url, features/, /config/x",
            "SVCINIT_SIGNALS": "TERM:QUIT,10:0",
            "SVCINIT_STOP_ON": "TERM,RTMIN+3",
            "SVCINIT_RELOAD": "write:/run/fifo:c",
            "SVCINIT_RELOAD_TIMEOUT": "500ms",
        }
    )
    assert read.dns_addr == (("10.0.0.1", 8600), ("::1", 53))
    assert read.wait_for == (
        ("mysql", 1, None),
        ("redis", 2, None),
        ("search", 1, "dc2"),
        ("blue.db", 3, "dc2"),
        ("geo.query", 1, None),
    )
    assert read.wait_for_keys == ("db/url", "features/", "/config/x")
    assert read.signals == {15: 3, 10: 0}
    assert read.stop_on == (15, 37)
    assert (read.reload.kind, read.reload.path, read.reload.text) == ("write", "/run/fifo", "c")
    assert read.reload_timeout == 0.5


def test_the_command_does_not_see_consuls_secrets_unless_asked_for() -> None:
    env = {"CONSUL_HTTP_TOKEN": "t", "CONSUL_HTTP_AUTH_FILE": "/dev/null", "CONSUL_HTTP_ADDR": "a", "A": "1"}
    assert environment.read(env).main_environment({"B": "2"}) == {"CONSUL_HTTP_ADDR": "a", "A": "1", "B": "2"}
    assert "CONSUL_HTTP_TOKEN" in environment.read({**env, "SVCINIT_PASS_TOKEN": "1"}).main_environment({})


def odd_environment(*odd: str, **env: str) -> environment.Environment:
    found = environment.Environment(env)
    found.odd = odd
    return found


def test_what_hooks_see_is_no_fault_for_svcinitctl_in_them_and_no_default_of_an_image(tmp_path: pathlib.Path) -> None:
    env = {"SVCINIT_CHANGED": "/etc/a", "SVCINIT_CHANGED_OMITTED": "1", "SVCINIT_MAIN_PID": "7"}
    assert environment.read(env, "/nosuch").plain
    (tmp_path / "image").write_text("SVCINIT_MAIN_PID=7\n")
    with pytest.raises(ConfigError, match="SVCINIT_MAIN_PID is not a variable of svcinit"):
        environment.read({}, str(tmp_path / "image"))


def test_entries_that_no_mapping_holds_go_to_the_command_but_for_secrets_and_what_replaces_them() -> None:
    odd = ("=foo", "bare", "", "A=2", "B=2", "CONSUL_HTTP_TOKEN=u", "CONSUL_HTTP_TOKEN_FILE=/u", "CONSUL_HTTP_TOKEN")
    given = odd_environment(*odd, A="1", B="1", CONSUL_HTTP_TOKEN="t")
    main = environment.read(given, "/nosuch").main_environment({"B": "kv"})
    assert (main, main.odd) == ({"A": "1", "B": "kv"}, ("=foo", "bare", "", "A=2"))
    passed = environment.read(odd_environment(*odd, SVCINIT_PASS_TOKEN="1"), "/nosuch").main_environment({})
    assert passed.odd == odd


def test_of_a_variable_given_twice_svcinit_takes_the_first_as_getenv_does(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = b"SVCINIT_PORT=1\0SVCINIT_PORT=2\0SVCINIT@LD_PRELOAD=a\0SVCINIT@LD_PRELOAD=b\0SVCINIT@MINE=\0"
    monkeypatch.setattr("builtins.open", lambda *_args: io.BytesIO(entries))
    found = environment.original_environment()
    assert found == {"SVCINIT_PORT": "1", "LD_PRELOAD": "a", "SVCINIT@MINE": ""}
    assert found.odd == ("SVCINIT_PORT=2", "LD_PRELOAD=b")


def test_a_secret_never_stands_in_a_fault(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "t"
    path.write_text("s3cret")
    assert "s3cret" not in "".join(faults(CONSUL_HTTP_TOKEN="s3cret", CONSUL_HTTP_TOKEN_FILE=str(path)))
    (fault,) = faults(SVCINIT_CHECK_HEADERS="Authorization Bearer s3cret")
    assert fault == "SVCINIT_CHECK_HEADERS=(not shown): expected NAME:VALUE,NAME:VALUE and found (not shown)"
    entry = '[{"check_headers": "Authorization Bearer s3cret"}]'
    with pytest.raises(ConfigError) as raised:
        services.services(environment.read({"SVCINIT_SERVICE": "web", "SVCINIT_SERVICES": entry}))
    assert str(raised.value).startswith("SVCINIT_SERVICES[0].check_headers=(not shown): expected NAME:VALUE")
    assert "s3cret" not in str(raised.value)


def test_a_password_in_the_address_of_consul_is_not_where_dns_is_asked() -> None:
    assert environment.read({"CONSUL_HTTP_ADDR": "http://me:s3cret@10.0.0.5:8500"}).dns_addr == (("10.0.0.5", 8600),)


def test_each_fault_names_its_variable_for_programs(tmp_path: pathlib.Path) -> None:
    image = tmp_path / "svcinit.env"
    image.write_text("SVCINIT_PORT=x\nnonsense\nSVCINIT_SERVCIE=web\n")
    with pytest.raises(ConfigError) as raised:
        environment.read({"SVCINIT_DRAIN": "soon", "SVCINIT_TAGS_FILE": "/nosuch", "SVCINIT_READY": "tcp"}, str(image))
    named = [[fault.fields.get(name) for name in ("variable", "file", "line")] for fault in raised.value.faults]
    assert sorted(named, key=str) == [
        ["SVCINIT_DRAIN", None, None],
        ["SVCINIT_PORT", str(image), None],
        ["SVCINIT_READY", None, None],
        ["SVCINIT_SERVCIE", str(image), 3],
        ["SVCINIT_TAGS_FILE", "/nosuch", None],
        [None, str(image), 2],
    ]
    assert faults(SVCINIT_READY="tcp")[0].fields == {"variable": "SVCINIT_READY"}


def test_settings_never_change() -> None:
    with pytest.raises(AttributeError):
        environment.read({}).port = 1


def test_the_typed_attributes_are_exactly_the_table() -> None:
    typed = {name for part in Settings.__mro__ for name in getattr(part, "__annotations__", {})}
    assert typed - {"environment", "needs_prepare", "plain"} == {row.attribute for row in TABLE}


def test_every_default_is_a_value_that_the_variable_takes_and_is_there_when_it_is_first_read() -> None:
    found = environment.read({})
    derived = {"id", "check", "kv_prefix", "dns_addr", "roll_prefix"}  # from other variables
    for row in TABLE:
        value = None if row.default is None else row.parse(row.default)
        told = getattr(found, row.attribute)
        same = getattr(value, "key", value) == getattr(told, "key", told)
        assert same or row.attribute in derived, row.name


@pytest.mark.parametrize("name", ["nosuch", "PORT", "svcinit_port", "__deepcopy__"])
def test_what_is_no_setting_is_an_error(name: str) -> None:
    with pytest.raises(AttributeError):
        getattr(environment.read(WEB), name)


def test_a_row_of_the_table_has_at_most_one_flag_and_that_is_known() -> None:
    assert {row[4:] for row in TABLE} == {(), (SECRET,), (PRIVATE,), (EMPTY,)}


def test_the_settings_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_help_names_every_variable() -> None:
    text = environment.help_text()
    words = " ".join(text.split())
    assert all(row.name in words and " ".join(row.meaning.split()) in words for row in TABLE)
    assert max(map(len, text.split("\n"))) <= 100


def test_help_has_every_variable_in_a_group() -> None:
    assert next(iter(GROUPS)) == TABLE[0].name
    assert set(GROUPS) <= {row.name for row in TABLE}
    assert all(f"\n{title}:" in environment.help_text() for title in GROUPS.values())


@pytest.mark.parametrize("given", ["svc:pass\nword", "svc:\0", "svc:\x7f"])
def test_credentials_that_cannot_be_typed_are_refused_and_not_shown(given: str) -> None:
    (fault,) = faults(CONSUL_HTTP_AUTH=given)
    assert fault.startswith("CONSUL_HTTP_AUTH=(not shown): expected USER:PASSWORD without line ends")


# directories that are missing are named, wherever they were given
@pytest.mark.parametrize("row", [row for row in TABLE if row.name != "SVCINIT_TEMPLATES"], ids=lambda row: row.name)
def test_what_stands_in_a_file_is_never_shown(row: Variable, tmp_path: pathlib.Path) -> None:
    (tmp_path / "secret").write_text("hunter2:/=hun'ter2,hunter2=\\hunter2")
    shown = ""
    try:
        environment.read({row.name + "_FILE": str(tmp_path / "secret")})
    except ConfigError as error:
        shown = str(error)
    assert "hunter2" not in shown
    assert "hun'ter2" not in shown


def test_an_image_brings_its_defaults_and_the_environment_goes_before_them(tmp_path: pathlib.Path) -> None:
    (tmp_path / "port").write_text("9000\n")
    file = tmp_path / "svcinit.env"
    file.write_text(f"# ours\n\nSVCINIT_CHECK=http:/health\nSVCINIT_TAGS=a\nSVCINIT_PORT_FILE={tmp_path}/port\n")
    alone = environment.read({"SVCINIT_SERVICE": "web", "SVCINIT_TAGS": ""}, str(file))
    assert (alone.check.key, alone.port, alone.tags) == (Target("http", "/health").key, 9000, ())
    assert environment.read(WEB, str(file)).port == 8000
    assert "SVCINIT_CHECK" not in alone.main_environment({})


def test_one_variable_can_be_had_whatever_is_wrong_with_the_others(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run").write_text("/b\n")
    image = tmp_path / "svcinit.env"
    image.write_text("SVCINIT_RUN=/a\nnonsense\nSVCINIT_LOG_FORMAT=jsn\n")
    assert environment.read_one("SVCINIT_RUN", {"SVCINIT_PORT": "x"}, str(image)) == "/a"
    assert environment.read_one("SVCINIT_RUN", {"SVCINIT_RUN_FILE": str(tmp_path / "run")}, str(image)) == "/b"
    assert environment.read_one("SVCINIT_RUN", {"SVCINIT_RUN_FILE": "/nosuch"}, str(image)) is None
    assert environment.read_one("SVCINIT_LOG_FORMAT", {}, str(image)) == "text"


def test_faults_in_the_images_defaults_name_the_file_and_the_line(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "svcinit.env"
    file.write_text("SVCINIT_PROT=80\nexport SVCINIT_PORT\nSVCINIT_DRAIN=soon\nDJANGO_SETTINGS=x\n")
    with pytest.raises(ConfigError) as caught:
        environment.read({}, str(file))
    said = [fault.removeprefix(str(file)) for fault in caught.value.faults]
    assert said[0] == ", line 1: SVCINIT_PROT is not a variable of svcinit; did you mean SVCINIT_PORT?"
    assert said[1] == ", line 2: expected NAME=value, or a comment after #"
    assert said[2].startswith(", line 4: DJANGO_SETTINGS is not a variable of svcinit")
    assert said[3].startswith(": SVCINIT_DRAIN='soon'")


@pytest.mark.parametrize("line", ["=80", "_FILE=/run/port"])
def test_a_value_without_a_name_in_the_images_defaults_is_a_fault(tmp_path: pathlib.Path, line: str) -> None:
    file = tmp_path / "svcinit.env"
    file.write_text(f"SVCINIT_PORT=80\n{line}\n")
    with pytest.raises(ConfigError, match=r"line 2: .*is not a variable of svcinit"):
        environment.read({}, str(file))


@pytest.mark.parametrize(
    ("given", "meant"), [("CACERT", "CONSUL_CACERT"), ("VAULT_CACERT", "VAULT_CACERT"), ("VAULT_TOKEN", "VAULT_TOKEN")]
)
def test_of_consul_and_vault_the_hint_names_consul_unless_vault_was_written(given: str, meant: str) -> None:
    assert faults(**{f"SVCINIT_{given}": "x"})[0].endswith(f"did you mean {meant}?")


# what Consul always refuses


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("SVCINIT_ADVERTISE", each) for each in ("0.0.0.0", "::", "[::]", "0:0:0:0:0:0:0:0", "host:0.0.0.0")],
        *[("SVCINIT_ID", each) for each in ("http://h/x", "a/../b", ".", "..", "/a", "a/", "a//b", "./a")],
        ("SVCINIT_META", "k=" + "v" * 513),
        ("SVCINIT_META", "k=" + "é" * 257),
        ("SVCINIT_META", "k" * 129 + "=v"),
        ("SVCINIT_META", "consul-x=1"),
        ("SVCINIT_META", ",".join(f"k{n}=v" for n in range(64))),
    ],
)
def test_what_consul_always_refuses_is_a_fault_of_its_variable(name: str, value: str) -> None:
    _, (fault,) = environment.attempt({"SVCINIT_SERVICE": "web", name: value})
    assert fault.fields["variable"] == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("SVCINIT_ADVERTISE", each) for each in ("10.0.0.0/8", "0.0.0.0/0", "eth0", "default-route", "::1")],
        ("SVCINIT_ADVERTISE", "host:a.example"),
        *[("SVCINIT_ID", each) for each in ("a/b", "a.b", 'a"b', "...", "a%2Fb", "a?b#c")],
        ("SVCINIT_META", "k=" + "v" * 512),
        ("SVCINIT_META", "k" * 128 + "=v"),
        ("SVCINIT_META", ",".join(f"k{n}=v" for n in range(63))),
    ],
)  # fmt: skip
def test_what_consul_takes_is_taken(name: str, value: str) -> None:
    assert environment.attempt({"SVCINIT_SERVICE": "web", name: value})[1] == []
