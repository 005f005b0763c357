"""What the template becomes, seen without an account: its transformation, and what it lets each function do."""
