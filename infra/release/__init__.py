"""A release: everything that is needed to install without building (`make release`)."""
