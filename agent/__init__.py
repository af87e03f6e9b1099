"""Beside the hosts: dials home and carries the sessions to them."""
