"""What the operator sees: dashboard, health, status."""
