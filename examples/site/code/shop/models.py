"""The shop's one table."""

from django.db import models


class Order(models.Model):
    """An order; the worker sets `done`."""

    at = models.DateTimeField(auto_now_add=True)
    done = models.BooleanField(default=False)
