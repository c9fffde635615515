"""Pages that show the version of the code and of the configuration."""

import os
import time

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse


def index(request: HttpRequest) -> JsonResponse:
    return JsonResponse(
        {
            "version": settings.VERSION,
            "greeting": settings.CONFIG["greeting"],
            "databases": settings.CONFIG["databases"],
        }
    )


def health(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok\n", content_type="text/plain")


def slow(request: HttpRequest) -> HttpResponse:
    """Answers after ?ms= milliseconds, at most 10 s."""
    time.sleep(min(int(request.GET.get("ms", "1000")), 10_000) / 1000)
    return HttpResponse(f"slept in {os.getpid()}\n", content_type="text/plain")
