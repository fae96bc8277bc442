"""Nets, one file a family. Any ``nn.Module`` named in the parameters will do as well."""
