"""Processes the queue: marks orders as done and notifies the log collector. On TERM, it finishes the current order."""

from __future__ import annotations

import logging
import os
import signal
import time
from logging.handlers import SysLogHandler
from types import FrameType

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django.setup()

import pika  # noqa: E402
from django.conf import settings  # noqa: E402
from django.db import close_old_connections  # noqa: E402
from pika.exceptions import AMQPError  # noqa: E402
from shop import stores  # noqa: E402
from shop.models import Order  # noqa: E402

LOOK = 0.5  # seconds between two checks for a stop
PAUSE = 1.0  # seconds before the next connection to the broker

stopping = False


def stop(_number: int, _frame: FrameType | None) -> None:
    global stopping
    stopping = True


def collector() -> logging.Handler:
    """Syslog over TCP, one line for each message (RFC 6587, 3.4.2). The logging module reconnects by itself."""
    handler = SysLogHandler(stores.address(settings.CONFIG["collectors"][0]), socktype=1)
    handler.append_nul = False
    handler.setFormatter(logging.Formatter("shop-worker: %(message)s\n"))
    return handler


def work(connection: pika.BlockingConnection, log: logging.Logger) -> None:
    channel = stores.open_queue(connection)
    channel.basic_qos(prefetch_count=10)
    for method, _, body in channel.consume(stores.QUEUE, inactivity_timeout=LOOK):
        if stopping:
            break
        if method is not None:
            close_old_connections()
            Order.objects.filter(pk=int(body)).update(done=True)
            log.info("order %s is done", body.decode())
            channel.basic_ack(method.delivery_tag)
    channel.cancel()


def main() -> None:
    signal.signal(signal.SIGTERM, stop)
    log = logging.getLogger("worker")
    log.setLevel(logging.INFO)
    log.addHandler(collector())
    while not stopping:
        try:
            with stores.connect_broker() as connection:
                work(connection, log)
        except (AMQPError, OSError) as error:
            print(f"the queue is away ({type(error).__name__}); trying again", flush=True)
            time.sleep(PAUSE)


if __name__ == "__main__":
    main()
