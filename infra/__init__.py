"""What runs and deploys the functions."""
