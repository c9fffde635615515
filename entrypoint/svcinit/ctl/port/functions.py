"""The functions of consul-template, of sprig and of Go, as expressions of Jinja2: a row for each.

A row has the expression, how tightly it binds, and its type. In the expression `{0}` is the first argument, `{0:f}`
one before a filter or operator, `{0:a}` one before a field; the value of a pipe is the last argument. Sources:
consul-template's docs/templating-language.md and template/funcs.go, https://masterminds.github.io/sprig/.
"""

from __future__ import annotations

from svcinit.ctl.port.expressions import ATOM, COMPARISON, FILTER, LOGIC, SUM

Row = tuple[str, int, str]

# what records have, by kind and Go's name: the name here, and its type
FIELDS: dict[str, dict[str, tuple[str, str]]] = {
    "instance": {
        "ID": ("id", "str"), "Name": ("name", "str"), "Address": ("address", "str"), "Port": ("port", "int"),
        "Node": ("node", "str"),
        "NodeID": ("node_id", "str"), "NodeAddress": ("node_address", "str"), "NodeMeta": ("node_meta", "map:str"),
        "ServiceMeta": ("meta", "map:str"), "Meta": ("meta", "map:str"), "Tags": ("tags", "list:str"),
        "Status": ("status", "str"), "Checks": ("checks", "list:check"), "Weights": ("", "weights"),
    },
    "weights": {"Passing": ("weight", "int"), "Warning": ("weight", "int")},
    "check": {"CheckID": ("id", "str"), "Name": ("name", "str"), "Status": ("status", "str")},
    "pair": {"Key": ("key", "str"), "Value": ("value", "str")},
    "snippet": {"Name": ("name", "str"), "Tags": ("tags", "list:str")},
    "node": {
        "Node": ("name", "str"), "Address": ("address", "str"), "Meta": ("meta", "map:str"),
        "Datacenter": ("dc", "str"),
    },
    "nodes": {"Node": ("", "node"), "Services": ("services", "list:registered")},
    "registered": {
        "ID": ("id", "str"), "Service": ("name", "str"), "Address": ("address", "str"), "Port": ("port", "int"),
        "Tags": ("tags", "list:str"), "Meta": ("meta", "map:str"),
    },
    "secret": {"Data": ("", "data")},
    "root": {
        "ID": ("id", "str"), "Name": ("name", "str"), "RootCertPEM": ("cert", "str"), "Active": ("active", "bool"),
    },
}  # fmt: skip
METHODS: dict[str, Row] = {
    "Contains": ("{1} in {0:f}", COMPARISON, "bool"),
    "ContainsAll": ("{1:f}|reject('in', {0})|list|length == 0", COMPARISON, "bool"),
    "ContainsAny": ("{1:f}|select('in', {0})|list|length > 0", COMPARISON, "bool"),
    "ContainsNone": ("{1:f}|select('in', {0})|list|length == 0", COMPARISON, "bool"),
}
SCRATCH: dict[str, Row] = {
    "Key": ("{0} in scratch", COMPARISON, "bool"),
    "Get": ("scratch[{0}]", ATOM, "any"),
    "MapValues": ("scratch[{0}]|default({{}})|dictsort(true)|map(attribute=1)|list", FILTER, "list:any"),
}
SCRATCH_SETS = {  # no expressions: they print nothing
    "Set": "scratch.update({{{0}: {1}}})",
    "SetX": "scratch.setdefault({0}, {1})",
    "MapSet": "scratch.setdefault({0}, {{}}).update({{{1}: {2}}})",
    "MapSetX": "scratch.setdefault({0}, {{}}).setdefault({1}, {2})",
}
TESTS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
NUMBERS = {"add": ("+", 0), "subtract": ("-", 1), "multiply": ("*", 0), "divide": ("//", 1), "modulo": ("%", 1)}
SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "//", "mod": "%"}
NUMBERS |= {f"sprig_{name}": (sign, 0) for name, sign in SIGNS.items()}
OF_GO = {"//": "go_divide", "%": "go_modulo"}  # filters: Python rounds down, Go towards zero

_TEXT: dict[str, str] = {  # functions from texts to a text
    "replaceAll": "{2:f}|replace({0}, {1})",
    "regexReplaceAll": "{2:f}|regex_replace({0}, {1})",
    "join": "{1:f}|join({0})",
    "toLower": "{0:f}|lower",
    "toUpper": "{0:f}|upper",
    "toTitle": "{0:f}|title",
    "trimSpace": "{0:f}|trim",
    "trim": "{1:a}.strip({0})",
    "trimPrefix": "{1:f}|trim_prefix({0})",
    "trimSuffix": "{1:f}|trim_suffix({0})",
    "indent": "{1:f}|indent({0}, first=true)",
    "base64Decode": "{0:f}|b64decode",
    "base64Encode": "{0:f}|b64encode",
    "base64URLDecode": "{0:f}|b64decode(urlsafe=true)",
    "base64URLEncode": "{0:f}|b64encode(urlsafe=true)",
    "sha256Hex": "{0:f}|sha256",
    "md5sum": "{0:f}|md5",
    "hmacSHA256Hex": "{0:f}|hmac_sha256({1})",
    "toJSON": "{0:f}|to_json(compact=true)",
    "toUnescapedJSON": "{0:f}|to_json(compact=true)",
    "toJSONPretty": "{0:f}|to_json(indent=2)",
    "toUnescapedJSONPretty": "{0:f}|to_json(indent=2)",
    "toYAML": "{0:f}|to_yaml|trim",
    "toTOML": "{0:f}|to_toml|trim",
    "urlquery": '{0:f}|urlencode|replace("/", "%2F")|replace("%20", "+")',
    "file": "file({0})",
    "sprig_upper": "{0:f}|upper",
    "sprig_lower": "{0:f}|lower",
    "sprig_title": "{0:f}|title",
    "sprig_trim": "{0:f}|trim",
    "sprig_trimAll": "{1:a}.strip({0})",
    "sprig_trimPrefix": "{1:f}|trim_prefix({0})",
    "sprig_trimSuffix": "{1:f}|trim_suffix({0})",
    "sprig_replace": "{2:f}|replace({0}, {1})",
    "sprig_quote": "{0:f}|string|to_json",
    "sprig_repeat": "{1:f} * {0:f}",
    "sprig_join": "{1:f}|join({0})",
    "sprig_indent": "{1:f}|indent({0}, first=true, blank=true)",
    "sprig_nospace": '{0:f}|regex_replace("\\\\s", "")',
    "sprig_toString": "{0:f}|go_text",
    "sprig_b64enc": "{0:f}|b64encode",
    "sprig_b64dec": "{0:f}|b64decode",
    "sprig_sha256sum": "{0:f}|sha256",
    "sprig_sha1sum": "{0:f}|sha1",
    "sprig_toJson": "{0:f}|to_json(compact=true)",
    "sprig_base": '{0:f}|split("/")|last',
}
_BOOL: dict[str, str] = {
    "in": "{1} in {0:f}",
    "contains": "{0} in {1:f}",
    "regexMatch": "{1:f}|regex_match({0})",
    "keyExists": "key_exists({0})",
    "parseBool": "{0:f}|parse_bool",
    "containsAny": "{0:f}|select('in', {1})|list|length > 0",
    "containsAll": "{0:f}|reject('in', {1})|list|length == 0",
    "containsNone": "{0:f}|select('in', {1})|list|length == 0",
    "containsNotAll": "{0:f}|reject('in', {1})|list|length > 0",
    "sprig_contains": "{0} in {1:f}",
    "sprig_has": "{0} in {1:f}",
    "sprig_hasKey": "{1} in {0:f}",
    "sprig_hasPrefix": "{1:a}.startswith({0})",
    "sprig_hasSuffix": "{1:a}.endswith({0})",
    "sprig_empty": "not {0:f}",
}
_OTHER: dict[str, Row] = {
    "parseJSON": ("{0:f}|from_json", FILTER, "any"),
    "parseYAML": ("{0:f}|from_yaml", FILTER, "any"),
    "parseInt": ("{0:f}|strict_int", FILTER, "int"),
    "parseUint": ("{0:f}|strict_int", FILTER, "int"),
    "parseFloat": ("{0:f}|strict_float", FILTER, "float"),
    "split": ("{1:f}|trim|split({0})", FILTER, "list:str"),
    "splitToMap": ('dict({2:f}|split({0})|map("split", {1}))', ATOM, "map:str"),
    "explode": ("dict({0})|explode_map", FILTER, "tree"),
    "explodeMap": ("{0:f}|explode_map", FILTER, "any"),
    "mergeMap": ("{1:f}|merge({0})", FILTER, "any"),
    "mergeMapWithOverride": ("{0:f}|merge({1})", FILTER, "any"),
    "byKey": ("{0:f}|by_key", FILTER, "map:map:pair"),
    "byTag": ("{0:f}|by_tag", FILTER, "map:list:instance"),
    "byMeta": ("{1:f}|by_meta({0})", FILTER, "map:list:instance"),
    "datacenters": ("datacenters()", ATOM, "list:str"),
    "caRoots": ("connect_ca()", ATOM, "list:root"),
    "env": ('env.get({0}, "")', ATOM, "str"),
    "mustEnv": ("env[{0}]", ATOM, "str"),
    "envOrDefault": ("env.get({0}, {1})", ATOM, "str"),
    "minimum": ("[{0}, {1}]|min", FILTER, "int"),
    "maximum": ("[{0}, {1}]|max", FILTER, "int"),
    "scratch": ("scratch", ATOM, "scratch"),
    "secrets": ("secrets({0})", ATOM, "list:str"),
    "sprig_default": ("{1:f}|default({0}, true)", FILTER, "any"),
    "sprig_ternary": ("{0:s} if {2:s} else {1:s}", LOGIC, "any"),
    "sprig_first": ("{0:f}|first", FILTER, "any"),
    "sprig_last": ("{0:f}|last", FILTER, "any"),
    "sprig_uniq": ("{0:f}|unique(true)|list", FILTER, "list:any"),
    "sprig_sortAlpha": ("{0:f}|sort(case_sensitive=true)", FILTER, "list:str"),
    "sprig_reverse": ("{0:f}|reverse|list", FILTER, "list:any"),
    "sprig_append": ("{0:f} + [{1}]", SUM, "list:any"),
    "sprig_compact": ("{0:f}|select|list", FILTER, "list:any"),
    "sprig_keys": ("{0:f}|list", FILTER, "list:str"),
    "sprig_get": ("{0:a}[{1}]", ATOM, "any"),
    "sprig_fromJson": ("{0:f}|from_json", FILTER, "any"),
    "sprig_int": ("{0:f}|int", FILTER, "int"),
    "sprig_atoi": ("{0:f}|int", FILTER, "int"),
}  # fmt: skip
FUNCTIONS: dict[str, Row] = {
    **{name: (code, FILTER, "str") for name, code in _TEXT.items()},
    **{name: (code, COMPARISON, "bool") for name, code in _BOOL.items()},
    **_OTHER,
}

# what has no equivalent, and what to do instead
REFUSED: dict[str, str] = {
    "plugin": "a template runs no programs: write the result into KV, or prepare a file in SVCINIT_PRE_START",
    "writeToFile": "a template has no side effects: write a template of its own for this file, with owner= and mode=",
    "pkiCert": "use secret(path, common_name=...) of the PKI role, one template for each file",
    "caLeaf": "svcinit registers no proxies: the leaf certificate of a service is the task of its proxy",
    "connect": "svcinit registers no proxies: use instances(name) of the service itself",
    "timestamp": "the same input must always render to the same bytes: let the service write the time",
    "sockaddr": "use this.address, selected by SVCINIT_ADVERTISE",
    "partitions": "svcinit uses no feature that Consul 1.8 lacks",
    "peerings": "svcinit uses no feature that Consul 1.8 lacks",
    "executeTemplate": "its name must be a constant: write a macro",
    **dict.fromkeys(
        ("nomadService", "nomadServices", "nomadVar", "nomadVarList", "nomadVarListSafe", "nomadVarExists"),
        "svcinit is for hosts without Nomad",
    ),
    **dict.fromkeys(("spew_dump", "spew_sdump", "spew_printf", "spew_sprintf"), "use the filter pprint"),
}
