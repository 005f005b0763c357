"""What every writer of a State Store must do, tried on memory and on real servers of each kind."""
