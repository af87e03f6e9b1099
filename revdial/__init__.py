"""Reverse-dialled tunnels over WebSocket: control messages, byte streams, datagram flows.

A host behind NAT cannot be dialled, so its agent dials the edge and keeps one *control* WebSocket
open. When the edge needs the host, it sends a `Dial` with an id there; the agent checks it against
its own list and opens a *data* WebSocket under that id, which both sides then use as a byte stream
or as a datagram flow. Nothing but outgoing connections to one address and port is needed.

    edge                                             agent
    listener   who may come in                       connector   opens WebSockets with the token
    tunnel     one agent: open_stream, open_flow     dialer      stays connected
               request, heartbeats                   answering   dials back, answers, beats

    both: stream and flow over a websocket; messages, framing, backlog, backoff, pending, admission
    decide without I/O; udp reads and writes bursts; observer names every loss
"""
