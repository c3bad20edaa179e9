"""The upstream APIs with their real quirks, for the demo and the tests."""
