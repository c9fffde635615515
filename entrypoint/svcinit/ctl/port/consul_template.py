"""The functions of consul-template, for `generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svcinit.ctl.port import queries
from svcinit.ctl.port.functions import FUNCTIONS, REFUSED
from svcinit.ctl.port.values import Dialect

if TYPE_CHECKING:
    from svcinit.ctl.port.expressions import Expr


def _asked(name: str, arguments: list[Expr]) -> Expr | None:
    return queries.asked(name, arguments) if name in queries.CALLS else None


DIALECT = Dialect(FUNCTIONS, REFUSED, _asked)
