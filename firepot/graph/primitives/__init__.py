"""The primitives, one file a family. Everything a person calls is composed from these."""
