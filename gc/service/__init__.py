"""The collector at work for as long as an SR is attached: processes, threads, jobs."""
