"""Networks of timm and transformers in local folders: found, checked, built. Knows no space."""
