"""The page that uses all three stores, and the pages about it."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse

from shop import stores
from shop.models import Order

COUNTERS = 20  # number of keys, enough to use each redis


def index(request: HttpRequest) -> JsonResponse:
    order = Order.objects.create()
    visits = stores.cache().incr(f"visits:{order.pk % COUNTERS}")
    stores.enqueue(order.pk)
    return JsonResponse({"version": settings.VERSION, "order": order.pk, "visits": visits})


def orders(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"all": Order.objects.count(), "done": Order.objects.filter(done=True).count()})


def health(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok\n", content_type="text/plain")
