"""The administrator's commands; the only place that prints for people."""
