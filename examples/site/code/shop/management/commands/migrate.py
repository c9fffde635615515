"""migrate with a lock: two instances that start together would both create the same table."""

from __future__ import annotations

from typing import Any

from django.core.management.commands import migrate
from django.db import connection

SECONDS = 60


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT GET_LOCK('shop.migrate', %s)", [SECONDS])
            super().handle(*args, **options)
            cursor.execute("SELECT RELEASE_LOCK('shop.migrate')")
