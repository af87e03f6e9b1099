"""Dashboards for Grafana, written as JSON by ``python -m grafana``, and alert rules beside them."""
