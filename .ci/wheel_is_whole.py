"""Compare the files in the wheel with those that git has under seaalign/."""

import subprocess
import sys
import zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    packed = {name for name in wheel.namelist() if name.startswith("seaalign/")}
listed = subprocess.run(["git", "ls-files", "seaalign"], check=True, capture_output=True, text=True)
tracked = set(listed.stdout.split())
print(f"{len(packed)} files in the wheel")
if packed != tracked:
    sys.exit(f"only in git: {sorted(tracked - packed)}; only in the wheel: {sorted(packed - tracked)}")
