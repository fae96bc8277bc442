"""Nets, one file for each family. The parameters may name any other ``nn.Module`` as well."""
