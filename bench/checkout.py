"""Runs a module of this checkout, be onnxplan installed or not: ``python bench/checkout.py MODULE ...``.

The folders of the checkout become an importable package through links in ``build/checkout``, so that a
machine without a package index can run tests and benchmarks with the packages it has.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("compiler", "kernels", "runtime")


def link(folder: Path) -> Path:
    """Makes ``folder`` a place that onnxplan can be imported from, with its version, and returns it."""
    package = folder / "onnxplan"
    package.mkdir(parents=True, exist_ok=True)
    sources = [*(ROOT / "onnxplan").iterdir(), *(ROOT / room for room in ROOMS)]
    wanted = {source.name: source for source in sources if source.name != "__pycache__"}
    for old in package.iterdir():
        if old.name not in wanted and old.name != "__pycache__":
            old.unlink()
    for name, source in wanted.items():
        place = package / name
        if not place.is_symlink() or place.resolve() != source:
            place.unlink(missing_ok=True)
            place.symlink_to(source, target_is_directory=source.is_dir())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    metadata = folder / f"onnxplan-{version}.dist-info"
    metadata.mkdir(exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: onnxplan\nVersion: {version}\n"
    (metadata / "METADATA").write_text(text, encoding="utf-8")
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Environment variables with which Python imports the package from ``folder`` and the rest from here."""
    paths = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    folder = link(ROOT / "build" / "checkout")
    # -P: the current folder must not hide the package behind the folder of the same name.
    command = [sys.executable, "-P", "-m", *sys.argv[1:]]
    raise SystemExit(subprocess.run(command, env=environment(folder), check=False).returncode)


if __name__ == "__main__":
    main()
