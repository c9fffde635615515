"""Routes."""

from django.urls import path

from shop import views

urlpatterns = [
    path("", views.index),
    path("orders", views.orders),
    path("health", views.health),
]
