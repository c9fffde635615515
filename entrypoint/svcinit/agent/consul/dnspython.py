"""dnspython without its optional packages, of which svcinit uses none. Import this before any module of dnspython.

Otherwise dnspython looks for each of them in the metadata of all installed packages, which takes 11 ms.
"""

from dns import _features

for feature in ("dnssec", "doh", "doq", "idna", "trio", "wmi"):
    _features.force(feature, False)
