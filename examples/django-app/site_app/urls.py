"""Routes."""

from django.urls import path

from site_app import views

urlpatterns = [
    path("", views.index),
    path("health", views.health),
    path("slow", views.slow),
]
