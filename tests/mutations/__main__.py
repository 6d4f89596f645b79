"""`python -m tests.mutations [guard ...]`: switch guards off, one at a time, in a copy of the code.

Exits 0 when the tests named for each guard fail without it. Nothing here is changed.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutations.guards import GUARDS, Guard

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("app", "lua", "sql", "tests", "pyproject.toml")
_TIMEOUT_S = 600
_TESTS_FAILED = 1


def notices(guard: Guard) -> str:
    """Run a guard's tests without it; the test that failed first, or nothing."""
    with tempfile.TemporaryDirectory(prefix="sb-mutation-") as folder:
        Path(folder).chmod(0o755)
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, Path(folder) / part, ignore=ignore)
            else:
                shutil.copy(source, folder)
        path = Path(folder) / guard.path
        text = path.read_text()
        if guard.text not in text:
            raise SystemExit(f"{guard.name}: its text is not in {guard.path}")
        path.write_text(text.replace(guard.text, guard.without))
        pytest = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*pytest, *guard.tests.split()],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if done.returncode != _TESTS_FAILED or not failed:
        print(done.stdout[-2_000:])
        return ""
    return re.split(r" - |\[", failed[0].removeprefix("FAILED "))[0]


def main(names: list[str]) -> int:
    """Try the named guards, or all of them."""
    unknown = set(names) - {guard.name for guard in GUARDS}
    if unknown:
        print(f"no such guard: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    survived = 0
    for guard in GUARDS:
        if names and guard.name not in names:
            continue
        test = notices(guard)
        survived += not test
        print(f"| {guard.name} | `{test}` |" if test else f"SURVIVED: {guard.name}", flush=True)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
