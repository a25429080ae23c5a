"""Tests of `syncflow.wsgi`."""
