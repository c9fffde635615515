"""The same service as server.c, under the Python of the image: app.py PORT."""

import os
import signal
import socket
import sys
import time


def make_orphan(*_: object) -> None:
    parent = os.fork()
    if parent == 0:
        if os.fork() == 0:
            time.sleep(0.1)
        os._exit(9)
    os.waitpid(parent, 0)
    print("orphan", flush=True)


signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, make_orphan)
print(f"the app runs on {sys.executable} {sys.version.split()[0]}", flush=True)
with socket.create_server(("", int(sys.argv[1]))) as listening:
    while True:
        listening.accept()[0].close()
