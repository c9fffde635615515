"""A small Django project: what a team would mount into the django-uwsgi image."""
