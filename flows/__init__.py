"""What runs, and when: thin Prefect flows and the command line."""
