"""What is seen of collectors from outside: by an admin, and by Prometheus."""
