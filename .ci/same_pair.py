"""Compare the torch and torchaudio that pip would install (its --report file) with those installed here."""

import json
import sys
from importlib import metadata

with open(sys.argv[1]) as file:
    chosen = {item["metadata"]["name"]: item["metadata"]["version"] for item in json.load(file)["install"]}
here = {name: metadata.version(name) for name in ("torch", "torchaudio")}
print("pip would install", {name: chosen.get(name) for name in here})
if any(chosen.get(name) != version for name, version in here.items()):
    sys.exit(f"the installed pair is {here}: the bounds in pyproject.toml let installers differ")
