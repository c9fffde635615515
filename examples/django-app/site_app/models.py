"""One table, so that there is something to migrate."""

from django.db import models


class Visit(models.Model):
    """A visit to the site."""

    at = models.DateTimeField(auto_now_add=True)
