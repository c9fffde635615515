"""The ACL policies that svcinitctl doctor prints for roll-outs: they are enough, and each rule is needed."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from svcinit.agent.fleet.records import RollOutcome
from testing.doctor import diagnosis
from testing.secured import GuardedConsul
from testing.waiting import eventually
from tests.e2e.test_fleet import QUICK, Shop, until_over

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(180)]
OWN_KEYS, OWN_SERVICE = 'key_prefix "config/web/" { policy = "read" }', 'service "web" { policy = "write" }'
STATE, STATE_WRITE = (f'key_prefix "svcinit/web/" {{ policy = "{policy}" }}' for policy in ("read", "write"))
RECORDS = 'key_prefix "svcinit/web/at/" { policy = "write" }'
SERVICE, NODES = 'service "web" { policy = "read" }', 'node_prefix "" { policy = "read" }'
SESSION = 'session_prefix "" { policy = "write" }'
UNDO = 'key_prefix "config/web/" { policy = "write" }'
INSTANCE = [OWN_KEYS, OWN_SERVICE, STATE, RECORDS]
CONDUCTOR = [OWN_KEYS, SERVICE, STATE_WRITE, NODES, SESSION]
AUTO = [OWN_KEYS, OWN_SERVICE, STATE_WRITE, NODES, SESSION]
COUNT = 3


def printed(guarded: GuardedConsul, roll: str) -> dict[str, list[str]]:
    """The rules of the policy that doctor prints, by the comment above them."""
    found = diagnosis({
        **guarded.env, "CONSUL_HTTP_TOKEN": guarded.token, "SVCINIT_SERVICE": "web", "SVCINIT_PORT": "1",
        "SVCINIT_ROLL": roll, "SVCINIT_TEMPLATES": "",
    })  # fmt: skip
    parts: dict[str, list[str]] = {}
    title = ""
    for line in found.policy.splitlines():
        rule = line.removeprefix("# ")
        if line.startswith("# for ") and line.endswith(":"):
            title = rule
        elif rule.endswith("}"):
            parts.setdefault(title, []).append(rule)
    return parts


@pytest.fixture
def guarded(tmp_path: pathlib.Path) -> Iterator[GuardedConsul]:
    with GuardedConsul(tmp_path / "guarded") as agent:
        agent.kv_put("config/web/n", "good 1")
        yield agent


@pytest.fixture
def shop(tmp_path: pathlib.Path, guarded: GuardedConsul) -> Iterator[Shop]:
    with ExitStack() as stack:
        yield Shop(tmp_path, guarded, stack, COUNT)


def use(guarded: GuardedConsul, rules: list[str]) -> None:
    """svcinitctl has a token with these rules from now on."""
    guarded.secrets = {"CONSUL_HTTP_TOKEN": guarded.grant(" ".join(rules)).secret}


def named(rule: str) -> str:
    """How a message names it: by the key that is denied, which is below the prefix."""
    kind, prefix, _ = rule.split('"', 2)
    if kind != "key_prefix " or rule == OWN_KEYS:
        return rule
    return f'{kind if "read" in rule else "key "}"{prefix}'


def without(rules: list[str], rule: str) -> list[str]:
    return [each for each in rules if each != rule]


def test_doctor_prints_the_rules_of_an_instance_and_of_who_conducts(guarded: GuardedConsul) -> None:
    agents = next(title for title in printed(guarded, "off") if title)
    manual = printed(guarded, "manual")
    assert (manual[""], manual["for the token of svcinitctl fleet:"]) == (INSTANCE, CONDUCTOR)
    assert manual["for svcinitctl fleet undo, in place of the same rules for reading:"] == [UNDO]
    auto = printed(guarded, "auto")
    assert (auto[""], set(auto)) == (AUTO, {"", agents})


def test_with_exactly_the_printed_policies_each_step_of_a_roll_out_works(shop: Shop, guarded: GuardedConsul) -> None:
    shop.start(CONSUL_HTTP_TOKEN=guarded.grant(" ".join(INSTANCE)).secret)
    use(guarded, CONDUCTOR)
    said = []

    def fleet(*command: str) -> int:
        code, text = shop.run(*command)
        said.append(text)
        return code

    assert fleet("apply", "web", *QUICK) == 0, said
    shop.put("good 2")
    assert fleet("apply", "web", *QUICK) == 0, said
    assert shop.contents() == ["good 2"] * COUNT
    assert fleet("reload", "web", *QUICK) == 0, said
    shop.put("slow bad 3")
    assert fleet("apply", "web", *QUICK) == 1, said
    assert "reverted" in said[-1]
    assert shop.contents() == ["good 2"] * COUNT
    assert [fleet("status", "web"), fleet("history", "web"), fleet("diff", "web")] == [0, 0, 0], said
    assert (fleet("undo", "web"), named(UNDO) in said[-1]) == (78, True), said
    use(guarded, [*without(CONDUCTOR, OWN_KEYS), UNDO])
    assert fleet("undo", "web") == 0, said
    assert guarded.kv_get("config/web/n") == b"good 2"
    assert fleet("turn", "--id", "web-0", *QUICK[:6], "web", "--", "true") == 0, said
    said = [text for text in said if named(UNDO) not in text]
    logs = "".join([*said, *(instance.err for instance in shop.instances)])
    assert "denied" not in logs


def test_each_rule_of_svcinitctl_is_named_if_it_lacks_and_nothing_begins(shop: Shop, guarded: GuardedConsul) -> None:
    shop.start(CONSUL_HTTP_TOKEN=guarded.grant(" ".join(INSTANCE)).secret)
    use(guarded, CONDUCTOR)
    assert shop.run("apply", "web", *QUICK)[0] == 0
    shop.put("good 2")
    plan = guarded.kv_get("svcinit/web/plan")
    for rule in CONDUCTOR:
        use(guarded, [*without(CONDUCTOR, rule), *([STATE] if rule == STATE_WRITE else [])])
        for command in (("apply", "web", *QUICK), ("turn", "--id", "web-0", *QUICK[:6], "web", "--", "false")):
            if (command[0], rule) == ("turn", OWN_KEYS):
                continue
            code, said = shop.run(*command)
            assert (code, named(rule) in said) == (78, True), f"{command[0]} without {rule}: {said}"
        assert guarded.kv_get("svcinit/web/plan") == plan, rule
    assert shop.contents() == ["good 1"] * COUNT
    use(guarded, CONDUCTOR)
    assert shop.run("apply", "web", *QUICK)[0] == 0


@pytest.mark.parametrize("rule", [OWN_KEYS, STATE, RECORDS], ids=["keys", "state", "records"])
def test_without_a_rule_an_instance_logs_which_one(shop: Shop, guarded: GuardedConsul, rule: str) -> None:
    if rule == STATE:
        guarded.kv_put("svcinit/web/plan", json.dumps({"v": 1, "n": 1, "state": "idle", "good": "0123456789ab"}))
    shop.add(0, CONSUL_HTTP_TOKEN=guarded.grant(" ".join(without(INSTANCE, rule))).secret, SVCINIT_START_TIMEOUT="3s")
    shop.instances[0].says(
        "config/web: there are none, or none that the token may read" if rule == OWN_KEYS else named(rule)
    )


def test_with_exactly_the_printed_policy_auto_rolls_a_change_and_reverts_a_bad_one(
    shop: Shop, guarded: GuardedConsul
) -> None:
    guarded.secrets = {"CONSUL_HTTP_TOKEN": guarded.token}
    policy = "spread=none", "healthy=1s", "bake=1s", "max_unavailable=2"
    assert shop.run("policy", "web", *policy)[0] == 0
    shop.start(SVCINIT_ROLL="auto", CONSUL_HTTP_TOKEN=guarded.grant(" ".join(AUTO)).secret)
    eventually(lambda: shop.fleet.store.get(shop.fleet.keys.plan), "one conducts", 60)
    shop.put("good 2")
    assert until_over(shop, 1) == RollOutcome.DONE
    shop.put("slow bad 3")
    assert until_over(shop, 3) == RollOutcome.REVERTED
    assert shop.contents() == ["good 2"] * COUNT
    assert "denied" not in "".join(instance.err for instance in shop.instances)


@pytest.mark.parametrize("rule", [NODES, SESSION], ids=["nodes", "session"])
def test_without_a_rule_an_instance_with_auto_logs_which_one_and_begins_nothing(
    shop: Shop, guarded: GuardedConsul, rule: str
) -> None:
    shop.add(0, SVCINIT_ROLL="auto", CONSUL_HTTP_TOKEN=guarded.grant(" ".join(without(AUTO, rule))).secret)
    shop.instances[0].says(rule, 90)
    assert not guarded.kv_has("svcinit/web/plan")
