"""What lies below an SR on this host: devices, mounts, servers, and how they are reached."""
