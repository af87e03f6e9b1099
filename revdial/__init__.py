"""Reverse-dialled tunnels over WebSocket: control messages, byte streams, datagram flows."""
