"""Settings. The values that differ between environments come from the file that svcinit renders."""

import json
import os
import pathlib

BASE_DIR = pathlib.Path(__file__).parent.parent
CONFIG = json.loads(pathlib.Path(os.environ.get("APP_CONFIG", "/run/app/config.json")).read_text(encoding="utf-8"))
VERSION = (BASE_DIR / "VERSION").read_text(encoding="utf-8").strip()

SECRET_KEY = CONFIG["secret_key"]
ALLOWED_HOSTS = ["*"]
DEBUG = False
ROOT_URLCONF = "site_app.urls"
WSGI_APPLICATION = "site_app.wsgi.application"
INSTALLED_APPS = ["django.contrib.staticfiles", "site_app"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
DATA_DIR = pathlib.Path(os.environ.get("APP_DATA", "/tmp"))
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATA_DIR / "db.sqlite3"}}
STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
