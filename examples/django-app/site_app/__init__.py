"""A small Django project: the code that a team would mount into the django-uwsgi image."""
