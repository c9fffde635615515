"""Does what is in the queue: marks orders as done and tells the log collector. TERM: after the one at hand."""

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

LOOK = 0.5  # seconds between two looks at whether it shall end
PAUSE = 1.0  # seconds before the broker is tried again

stopping = False


def stop(_number: int, _frame: FrameType | None) -> None:
    global stopping
    stopping = True


def collector() -> logging.Handler:
    """Syslog over TCP, a line a message (RFC 6587, 3.4.2); logging itself connects again when it must."""
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
