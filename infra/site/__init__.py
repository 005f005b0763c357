"""The documentation as a site: MkDocs' configuration and hooks."""
