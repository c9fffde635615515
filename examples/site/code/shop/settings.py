"""Settings. The values that differ between environments come from the file that svcinit renders."""

import json
import os
import pathlib

BASE_DIR = pathlib.Path(__file__).parent.parent
CONFIG = json.loads(pathlib.Path(os.environ["APP_CONFIG"]).read_text(encoding="utf-8"))
_version = BASE_DIR / "VERSION"  # not tracked by git: a rollout by hand changes no file of the repository
VERSION = _version.read_text(encoding="utf-8").strip() if _version.exists() else "1"
DATABASE_HOST, _, DATABASE_PORT = CONFIG["databases"][0].rpartition(":")

SECRET_KEY = CONFIG["secret_key"]
ALLOWED_HOSTS = ["*"]
DEBUG = False
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
INSTALLED_APPS = ["django.contrib.staticfiles", "shop"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.mysql",
        "HOST": DATABASE_HOST,
        "PORT": DATABASE_PORT,
        "NAME": CONFIG["database"]["name"],
        "USER": CONFIG["database"]["user"],
        "PASSWORD": CONFIG["database"]["password"],
    }
}
STATIC_URL = "/static/"
STATIC_ROOT = pathlib.Path(os.environ.get("APP_DATA", "/tmp")) / "static"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
