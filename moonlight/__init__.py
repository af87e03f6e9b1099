"""The GameStream protocol as Moonlight speaks it, without I/O."""
