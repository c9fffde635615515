"""The WSGI application for uwsgi."""

import os
import time

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_app.settings")
time.sleep(float(os.environ.get("APP_LOAD_SECONDS", "0")))  # simulates the imports of a real project
application = get_wsgi_application()
