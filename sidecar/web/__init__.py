"""The views over HTTP: the live page, ``/status``, ``/metrics`` and a small read-only API.

Given: ``Views`` (published snapshots, histories, telemetry). Hands on: an ASGI application.
Never: changes anything; every endpoint answers GET and HEAD only.
"""
