"""dnspython without its optional packages, of which svcinit uses none, and without the signatures of its classes,
which only their documentation and `Rdata.replace` need. Import this before any module of dnspython.

Otherwise dnspython looks for each package in the metadata of all that are installed, which takes 11 ms, and loads
`inspect`, which takes 3 ms.
"""

from types import SimpleNamespace

from dns import _features, _immutable_ctx

for feature in ("dnssec", "doh", "doq", "idna", "trio", "wmi"):
    _features.force(feature, False)
_immutable_ctx.inspect = SimpleNamespace(signature=lambda _: None)  # type: ignore[assignment, attr-defined]
