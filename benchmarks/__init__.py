"""Each figure that README quotes, by one command."""
