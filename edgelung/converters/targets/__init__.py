"""What a network is compiled for: one module per target."""
