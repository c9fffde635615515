"""What uwsgi loads: the app that APP_MODULE names. A worker that cannot load it dies, and only that worker.

uwsgi itself knows two ways, both worse: with `need-app` one such worker ends the whole instance, without it the worker
serves "500" for every request and a chain reload goes on to the next. When this one dies uwsgi starts it again and the
chain waits for it, so the other workers serve the old code until the new one can be loaded.
"""

from __future__ import annotations

import importlib
import os
import time
import traceback

PAUSE = 2.0  # seconds: were it less, uwsgi would take it for a fork bomb and its master would sleep

try:
    _module, _, _name = os.environ["APP_MODULE"].partition(":")
    application = getattr(importlib.import_module(_module), _name or "application")
except BaseException:
    traceback.print_exc()
    time.sleep(PAUSE)
    os._exit(1)
