"""A release: all files for an installation without a build (`make release`)."""
