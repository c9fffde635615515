"""The module that uwsgi loads: it loads the app of APP_MODULE. A worker that cannot load the app exits alone.

uwsgi itself has two behaviours, and both are worse. With `need-app`, one such worker ends the whole instance. Without
it, the worker answers 500 to every request, and a chain reload continues with the next worker. If the worker exits,
uwsgi restarts it and the chain waits for it. So the other workers serve the old code until the new code can be loaded.
"""

from __future__ import annotations

import importlib
import os
import time
import traceback

PAUSE = 2.0  # seconds; after a shorter time, uwsgi assumes a fork bomb and its master sleeps

try:
    _module, _, _name = os.environ["APP_MODULE"].partition(":")
    application = getattr(importlib.import_module(_module), _name or "application")
except BaseException:
    traceback.print_exc()
    time.sleep(PAUSE)
    os._exit(1)
