"""What `moonhost doctor` checks: gatherers that look, and judges that say what it means."""
