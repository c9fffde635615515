"""Redis through Twemproxy, and the queue. Their addresses come from the file that svcinit renders."""

from __future__ import annotations

import threading

import pika
import redis
from django.conf import settings
from pika.exceptions import AMQPError
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

QUEUE = "orders"
_local = threading.local()


def address(pair: str) -> tuple[str, int]:
    host, _, port = pair.rpartition(":")
    return host, int(port)


def connect_cache() -> redis.Redis:
    """Retries for some seconds at most: Twemproxy cuts its connections when it restarts for a change of the instances.

    Twemproxy also closes a connection after a command that it does not know, such as HELLO and CLIENT SETINFO.
    """
    host, port = address(settings.CONFIG["caches"][0])
    return redis.Redis(
        host, port, socket_connect_timeout=0.5, socket_timeout=0.5, protocol=2, driver_info=None,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 5),
    )  # fmt: skip


def cache() -> redis.Redis:
    if not hasattr(_local, "cache"):
        _local.cache = connect_cache()
    return _local.cache


def connect_broker() -> pika.BlockingConnection:
    host, port = address(settings.CONFIG["brokers"][0])
    login = pika.PlainCredentials(settings.CONFIG["broker"]["user"], settings.CONFIG["broker"]["password"])
    where = pika.ConnectionParameters(
        host, port, credentials=login, blocked_connection_timeout=5, socket_timeout=2, stack_timeout=4
    )
    return pika.BlockingConnection(where)


def open_queue(connection: pika.BlockingConnection) -> pika.adapters.blocking_connection.BlockingChannel:
    channel = connection.channel()
    channel.queue_declare(QUEUE, durable=True)
    return channel


def enqueue(order: int) -> None:
    """Put a message into the queue, on a new connection if the kept one was closed."""
    channel = getattr(_local, "channel", None)
    if channel is not None:
        try:
            _publish(channel, order)
            return
        except (AMQPError, OSError):
            del _local.channel
    channel = open_queue(connect_broker())
    _publish(channel, order)
    _local.channel = channel


def _publish(channel: pika.adapters.blocking_connection.BlockingChannel, order: int) -> None:
    persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
    channel.basic_publish("", QUEUE, str(order).encode(), persistent)
