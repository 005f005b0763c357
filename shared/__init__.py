"""The core that every Landfall function shares; ARCHITECTURE.md says what each module is for."""
